//! `isol8 serve` as typed.

use std::path::PathBuf;

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// The port to listen at [default: $ISOL8_PORT, $PORT, 3000]
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// A key that clients may come with; others on this machine can see it, so
    /// rather give it in the environment [default: $ISOL8_API_KEY]
    #[arg(short, long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// A JSON file of keys with names, read again on SIGHUP; nobody else may be
    /// able to read it
    #[arg(long, value_name = "PATH")]
    pub(crate) keys_file: Option<PathBuf>,
    /// The database that `isol8 key` writes [default: keys.db in the state folder]
    #[arg(long, value_name = "PATH")]
    pub(crate) keys_db: Option<PathBuf>,
    /// The address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) bind: std::net::IpAddr,
    /// A name that clients may call this server by, besides `localhost` and its
    /// addresses (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Does nothing: there is nothing to download
    #[arg(long)]
    pub(crate) update: bool,
}
