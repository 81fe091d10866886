//! `isol8 session`, as typed.

use std::ffi::OsString;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List your sessions and kept sandboxes, or the files in one
    Ls {
        /// A folder or file in a session, such as work:/sandbox
        #[arg(value_name = "NAME:PATH")]
        place: Option<OsString>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove sessions with everything in them, or files in one
    Rm {
        /// A session, or a file or folder in one
        #[arg(required = true, value_name = "NAME[:PATH]")]
        places: Vec<OsString>,
        /// Sessions in which a run goes on, too; it ends
        #[arg(short, long)]
        force: bool,
        /// Folders in a session, too, with everything in them
        #[arg(short, long)]
        recursive: bool,
    },
    /// Make a session of a sandbox that `isol8 run --persist` has kept
    Adopt {
        /// The sandbox, as `--persist` has told it
        #[arg(value_name = "ID")]
        id: String,
        /// The name that it gets
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Copy files into a session, or out of it
    ///
    /// One side is NAME:PATH, the other is here; `-` is stdin or stdout. A copy
    /// into a folder, or to a path that ends with `/`, keeps its name. Only files
    /// and folders are copied; links and others are told and passed over.
    Cp {
        /// Folders, too, with everything in them
        #[arg(short, long)]
        recursive: bool,
        /// What is copied
        #[arg(required = true, value_name = "SRC")]
        sources: Vec<OsString>,
        /// Where to
        #[arg(required = true, value_name = "DST")]
        destination: OsString,
    },
}
