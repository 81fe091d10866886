//! Compiles `proto/**.proto` into OUT_DIR, with the descriptor set beside it.
//! protox parses the files, so no protoc has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: [&str; 6] = [
    "isol8/v1/run.proto",
    "isol8/v1/session.proto",
    "isol8/v1/image.proto",
    "isol8/v1/admin.proto",
    "isol8/v1/gateway.proto",
    "isol8/init/v1/init.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("isol8.bin"), descriptors.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    #[cfg(feature = "grpc")]
    config.service_generator(
        tonic_prost_build::configure()
            .build_transport(false)
            .service_generator(),
    );
    config.compile_fds(descriptors)?;
    Ok(())
}
