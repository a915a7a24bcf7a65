//! What the targets share: a bound on the memory that one input may take.

use std::alloc::System;

use cap::Cap;

/// libFuzzer's own memory is not Rust's, and so is not counted.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What any input may take: the checks of the targets themselves make a few copies.
const FIXED: usize = 256 << 10;
/// What each of its bytes may take more.
const EACH: usize = 32;

/// Tries one input. An allocation beyond the bound fails, which aborts the process, and so is found: a length that an input only declares must
/// not be believed.
pub fn bounded(input: &[u8], check: impl FnOnce(&[u8])) {
    let most = MEMORY.allocated() + FIXED + EACH * input.len();
    MEMORY.set_limit(most).expect("more than there is");
    check(input);
    MEMORY.set_limit(usize::MAX).expect("more than there is");
}
