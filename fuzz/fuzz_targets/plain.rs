//! Any bytes as a text frame of the plain protocol, as the first of a connection and as a later one.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heartwire_fuzz::bounded(input, heartwire::connection::fuzzing::plain));
