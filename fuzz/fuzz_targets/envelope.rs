//! Any bytes as an envelope of the reliable protocol, and as a message in one.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heartwire_fuzz::bounded(input, heartwire::connection::fuzzing::envelope));
