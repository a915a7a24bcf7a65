//! Compiles the proto files with protox, so that no protoc needs to be installed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["event_service", "connection_service", "message_service", "node_service"]
        .map(|name| format!("proto/heartwire/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    // What reflection serves; protox keeps the comments, so that `grpcurl describe` shows them.
    let encoded = PathBuf::from(std::env::var("OUT_DIR")?).join("heartwire.v1.bin");
    std::fs::write(Path::new(&encoded), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".heartwire.v1").compile_fds(descriptors)?;
    Ok(())
}
