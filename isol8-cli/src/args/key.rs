//! `isol8 key`, as typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// The database [default: keys.db in the state folder, as `isol8 serve` has it]
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) keys_db: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key, and print its text: this once, it is not kept
    Add(Box<AddArgs>),
    /// List the keys, without their texts
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove keys: what runs under them ends, their sessions go when idle
    Rm {
        /// What they are called
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Give a key a new text, and print it; its sessions and limits stay
    Rotate {
        /// What it is called
        name: String,
        /// The text that it had goes on working for so long, such as 1h or 7d
        #[arg(long, value_name = "DURATION")]
        keep: Option<String>,
        /// When it expires from now on: 30d, 12h, or a time
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddArgs {
    /// What it is called: letters, digits and `._-`
    pub(crate) name: String,
    /// It may clean up, which touches sandboxes of others too
    #[arg(long)]
    pub(crate) admin: bool,
    /// When it expires: after 30d, 12h or 90m, or at a time such as
    /// 2027-01-01T00:00:00Z [default: never]
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,

    /// The most memory that a run may ask for
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        help_heading = "Narrower than the policy of the gateway"
    )]
    pub(crate) max_memory: Option<String>,
    /// The most cores, fractions allowed
    #[arg(
        long,
        value_name = "CORES",
        allow_negative_numbers = true,
        help_heading = "Narrower than the policy of the gateway"
    )]
    pub(crate) max_cpu: Option<String>,
    /// The longest time, in milliseconds
    #[arg(
        long,
        value_name = "MS",
        allow_negative_numbers = true,
        help_heading = "Narrower than the policy of the gateway"
    )]
    pub(crate) max_timeout: Option<String>,
    /// No run may ask for the host's network
    #[arg(long, help_heading = "Narrower than the policy of the gateway")]
    pub(crate) no_host_network: bool,
    /// An image that runs may name, of those that the gateway allows (repeatable)
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Narrower than the policy of the gateway"
    )]
    pub(crate) image: Vec<String>,
    /// No run may name an image
    #[arg(
        long,
        conflicts_with = "image",
        help_heading = "Narrower than the policy of the gateway"
    )]
    pub(crate) no_image: bool,
}
