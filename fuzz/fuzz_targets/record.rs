//! Any bytes as a record of the journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heartwire_fuzz::bounded(input, heartwire::log::journal::fuzzing::record));
