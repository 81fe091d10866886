//! `isol8 serve` as typed.

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// The port to listen at [default: $ISOL8_PORT, $PORT, 3000]
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// The key that clients must have [default: $ISOL8_API_KEY]
    #[arg(short, long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
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
