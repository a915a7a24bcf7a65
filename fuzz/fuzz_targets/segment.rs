//! Any bytes as a script: the batches of a segment of the journal, and what then happens to its file.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heartwire_fuzz::bounded(input, heartwire::log::journal::fuzzing::segment));
