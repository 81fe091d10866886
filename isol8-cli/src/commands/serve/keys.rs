//! Who may come in: the keys of all places, looked after while the gateway serves.

use std::{
    env, io,
    path::PathBuf,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use isol8_core::failure::{Failure, FailureKind};
use isol8_gateway::{Keeper, Key, Sources};
use tokio::sync::oneshot;

use crate::{args::ServeArgs, commands::key::database, paths::Paths};

const KEY: &str = "ISOL8_API_KEY";
/// Where systemd puts the credentials of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Reads the keys of every place that is named, and of the database where there
/// is one.
///
/// # Errors
/// A place that makes no sense; no key at all.
pub(super) fn read(args: &ServeArgs, paths: &Paths) -> Result<Keeper, Failure> {
    let store = match &args.keys_db {
        Some(path) => Some(path.clone()),
        // Without a home there is none.
        None => database(paths).ok(),
    };
    Keeper::new(Sources {
        given: given(args.key.as_deref())?.into_iter().collect(),
        file: args.keys_file.clone(),
        credentials: env::var_os(CREDENTIALS).map(PathBuf::from),
        store,
    })
}

/// The key of the flag, else of the variable.
fn given(flag: Option<&str>) -> Result<Option<Key>, Failure> {
    let (place, key) = match flag {
        Some(key) => ("--key", key.to_owned()),
        None => (KEY, env::var(KEY).unwrap_or_default()),
    };
    if key.is_empty() {
        return Ok(None);
    }
    let can_be_sent = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !can_be_sent || key.trim() != key {
        let message = format!("the key of `{place}` can never come with a request");
        return Err(Failure::new(FailureKind::InvalidRequest, message)
            .cause("a header takes ASCII, without blanks around it")
            .hint("choose another one; `isol8 key add <name>` draws one"));
    }
    Ok(Some(Key::new("default", &key, true)))
}

/// The thread that looks after the keys.
#[derive(Debug)]
pub(super) struct Keeping {
    orders: SyncSender<()>,
    over: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Keeping {
    pub(super) fn start(keeper: Keeper) -> io::Result<Self> {
        // One order that waits is as good as many.
        let (orders, taken) = sync_channel(1);
        let (alive, over) = oneshot::channel();
        let thread = thread::Builder::new().name("keys".to_owned());
        let thread = thread.spawn(move || {
            let _alive: oneshot::Sender<()> = alive;
            keeper.keep(&taken);
        })?;
        Ok(Self {
            orders,
            over,
            thread,
        })
    }

    /// Has the keys file read again.
    pub(super) fn read_again(&self) {
        let _one_waits = self.orders.try_send(());
    }

    /// Waits for an end that nobody ordered: a key that is removed now would go on
    /// opening the gateway.
    pub(super) async fn failed(&mut self) {
        let _gone = (&mut self.over).await;
    }

    /// Ends it.
    pub(super) fn end(self) {
        drop(self.orders);
        let _panicked = self.thread.join();
    }
}
