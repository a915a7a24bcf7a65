//! Any bytes as a cursor or a page token that a backend gives back.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| heartwire_fuzz::bounded(input, heartwire::grpc::fuzzing::cursor));
