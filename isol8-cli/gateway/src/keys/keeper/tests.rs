//! Changes of keys, as a gateway hears of them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
    time::Instant,
};

use tempfile::TempDir;

use super::{
    super::{KeyName, NewKey, Rotation},
    *,
};

const ONE: &str = "the-text-of-one-key";
const TWO: &str = "the-text-of-another";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("keys.json")
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("state/keys.db")
    }

    fn write(&self, text: &str) {
        write(&self.file(), text);
    }

    fn sources(&self) -> Sources {
        Sources {
            store: Some(self.store()),
            ..Sources::default()
        }
    }

    fn with_file(&self) -> Sources {
        Sources {
            file: Some(self.file()),
            ..self.sources()
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("it is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn file(keys: &[(&str, &str)]) -> String {
    let entry = |(name, key): &(&str, &str)| format!(r#"{{"name":"{name}","key":"{key}"}}"#);
    let entries: Vec<_> = keys.iter().map(entry).collect();
    format!(r#"{{"keys":[{}]}}"#, entries.join(","))
}

fn given() -> Vec<Key> {
    vec![Key::new("default", ONE, true)]
}

fn name(text: &str) -> KeyName {
    text.parse().expect("a name")
}

fn add(store: &mut Store, text: &str) -> String {
    let new = NewKey {
        name: name(text),
        is_admin: false,
        expires: None,
        policy: isol8_core::config::Policy::default(),
    };
    let added = store.add(&new, Timestamp::now(), |text| Ok(text.to_owned()));
    added.expect("it is new")
}

fn open(keys: &Keys, text: &str) -> Option<String> {
    let caller = keys.find(text, Timestamp::now())?;
    Some(caller.name().to_owned())
}

#[track_caller]
fn wait_for(what: &str, is_true: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A keeper at work.
struct Work {
    keys: Keys,
    orders: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Work {
    fn begin(sources: Sources) -> Self {
        let keeper = Keeper::new(sources).expect("the sources are right");
        let keys = keeper.keys();
        let (orders, taken) = sync_channel(1);
        let thread = std::thread::spawn(move || keeper.keep(&taken));
        Self {
            keys,
            orders,
            thread,
        }
    }

    fn end(self) {
        drop(self.orders);
        self.thread.join().expect("it does not panic");
    }
}

#[track_caller]
fn refused(sources: Sources, expected: &str) {
    let failure = Keeper::new(sources).expect_err("it is refused");
    let said = format!(
        "{failure} / {}",
        failure.hint.as_deref().unwrap_or_default()
    );
    assert!(said.contains(expected), "{said}");
}

#[test]
fn without_any_key_it_does_not_begin() {
    let place = Place::new();
    refused(
        Sources::default(),
        "API key required / make one with `isol8 key add",
    );
    refused(place.sources(), "API key required / make one");
    place.write(&file(&[]));
    refused(place.with_file(), "keys.json` has none");
    let store = Store::open(&place.store()).expect("it can be made");
    refused(place.sources(), "keys.db` has none");
    drop(store);
    let over = Key::new("a", ONE, true).until(Timestamp::UNIX_EPOCH);
    let sources = Sources {
        given: vec![over],
        ..Sources::default()
    };
    refused(sources, "every key has expired");
}

#[test]
fn all_sources_open_together() {
    let place = Place::new();
    let mut store = Store::open(&place.store()).expect("it can be made");
    let three = add(&mut store, "three");
    place.write(&file(&[("two", TWO)]));
    let sources = Sources {
        given: given(),
        ..place.with_file()
    };
    let keeper = Keeper::new(sources).expect("the sources are right");
    let keys = keeper.keys();
    assert_eq!(open(&keys, ONE).as_deref(), Some("default"));
    assert_eq!(open(&keys, TWO).as_deref(), Some("two"));
    assert_eq!(open(&keys, &three).as_deref(), Some("three"));
    assert_eq!(
        keeper.summary(),
        "3 keys: 1 given, 1 in the keys file, 1 in the key database"
    );
}

#[test]
fn a_text_in_two_places_is_refused() {
    let place = Place::new();
    place.write(&file(&[("two", ONE)]));
    let sources = Sources {
        given: given(),
        ..place.with_file()
    };
    refused(sources, "the keys `two` and `default` are the same");
    let mut store = Store::open(&place.store()).expect("it can be made");
    let text = add(&mut store, "three");
    place.write(&file(&[("two", &text)]));
    refused(place.with_file(), "the keys `three` and `two` are the same");
}

#[test]
fn a_broken_source_is_refused() {
    let place = Place::new();
    refused(place.with_file(), "cannot use the keys file");
    place.write("{");
    refused(place.with_file(), "line 1: EOF");
    fs::create_dir(place.0.path().join("state")).expect("it is ours");
    write(&place.store(), "this is no database, and never was one");
    refused(place.sources(), "damaged");
}

#[test]
fn the_file_is_read_again_when_asked_for_and_only_as_a_whole() {
    let place = Place::new();
    place.write(&file(&[("one", ONE), ("two", TWO)]));
    let work = Work::begin(place.with_file());
    let caller = work.keys.find(TWO, Timestamp::now()).expect("it opens");

    let broken = file(&[("one", ONE)]).replace("name", "nam");
    place.write(&broken);
    // The second order is taken only when the first was carried out, and the
    // third when the second was.
    for _ in 0..3 {
        work.orders.send(()).expect("it is at work");
    }
    assert!(open(&work.keys, TWO).is_some(), "the keys from before stay");
    assert!(!caller.revoked().is_cancelled());

    place.write(&file(&[("one", ONE)]));
    work.orders.send(()).expect("it is at work");
    wait_for("the removal", || open(&work.keys, TWO).is_none());
    assert!(caller.revoked().is_cancelled());
    assert!(open(&work.keys, ONE).is_some());
    work.end();
}

#[test]
fn the_database_is_followed_without_being_asked() {
    let place = Place::new();
    let work = Work::begin(Sources {
        given: given(),
        ..place.sources()
    });
    // It is made while the gateway serves.
    let mut store = Store::open(&place.store()).expect("it can be made");
    let first = add(&mut store, "ci");
    wait_for("the key", || open(&work.keys, &first).is_some());
    let caller = work.keys.find(&first, Timestamp::now()).expect("it opens");

    let keep = Timestamp::now() + Duration::from_secs(3600);
    let rotation = |keep| Rotation {
        keep,
        expires: None,
    };
    let now = Timestamp::now();
    let kept = store.rotate(&name("ci"), &rotation(Some(keep)), now, |text| {
        Ok(text.to_owned())
    });
    let second = kept.expect("it is there");
    wait_for("the new text", || open(&work.keys, &second).is_some());
    assert!(open(&work.keys, &first).is_some(), "it is kept");
    let renewed = work.keys.find(&second, Timestamp::now()).expect("it opens");
    assert_eq!(caller.owner(), renewed.owner());

    let third = store.rotate(
        &name("ci"),
        &rotation(None),
        now,
        |text| Ok(text.to_owned()),
    );
    let third = third.expect("it is there");
    wait_for("the old texts to go", || {
        open(&work.keys, &second).is_none()
    });
    assert!(open(&work.keys, &first).is_none() && open(&work.keys, &third).is_some());
    assert!(caller.revoked().is_cancelled());

    store.remove(&name("ci")).expect("it is there");
    wait_for("the removal", || open(&work.keys, &third).is_none());
    let fourth = add(&mut store, "ci");
    wait_for("the key", || open(&work.keys, &fourth).is_some());
    let another = work.keys.find(&fourth, Timestamp::now()).expect("it opens");
    assert_ne!(
        another.owner(),
        caller.owner(),
        "it has nothing of the first one"
    );

    // Another file in its place is another database, and none has no keys.
    drop(store);
    fs::remove_file(place.store()).expect("it is ours");
    wait_for("the removal", || open(&work.keys, &fourth).is_none());
    let mut store = Store::open(&place.store()).expect("it can be made");
    let fifth = add(&mut store, "ci");
    wait_for("the key", || open(&work.keys, &fifth).is_some());
    assert!(open(&work.keys, ONE).is_some());
    work.end();
}

#[test]
fn a_database_that_fails_changes_nothing() {
    let place = Place::new();
    let mut store = Store::open(&place.store()).expect("it can be made");
    let text = add(&mut store, "ci");
    let mut keeper = Keeper::new(place.sources()).expect("the sources are right");
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o666)).expect("it is ours");
    store.remove(&name("ci")).expect("it is there");
    keeper.look();
    assert!(
        keeper
            .said
            .as_deref()
            .is_some_and(|said| said.contains("not safe"))
    );
    assert!(open(&keeper.keys, &text).is_some());
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o600)).expect("it is ours");
    keeper.look();
    assert_eq!(keeper.said, None);
    assert!(open(&keeper.keys, &text).is_none());
}

#[test]
fn use_is_noted_once_a_minute() {
    let place = Place::new();
    let mut store = Store::open(&place.store()).expect("it can be made");
    let text = add(&mut store, "ci");
    let mut keeper = Keeper::new(Sources {
        given: given(),
        ..place.sources()
    })
    .expect("the sources are right");
    let last = || {
        let listed = store.list().expect("it can be read");
        let key = listed
            .into_iter()
            .next()
            .expect("a key")
            .expect("it makes sense");
        key.last_used.map(Timestamp::as_second)
    };
    let at = |seconds| Timestamp::from_second(seconds).expect("it is in range");
    keeper.look();
    assert_eq!(last(), None);
    for (used, noted) in [(1000, 1000), (1059, 1000), (1060, 1060), (500, 1060)] {
        assert!(keeper.keys.find(&text, at(used)).is_some());
        assert!(
            keeper.keys.find(ONE, at(used)).is_some(),
            "it is not in there"
        );
        keeper.look();
        assert_eq!(last(), Some(noted));
    }
    assert_eq!(keeper.said, None);
}

#[test]
fn a_database_in_use_fails_no_request_and_is_tried_again() {
    let place = Place::new();
    let mut store = Store::open(&place.store()).expect("it can be made");
    let text = add(&mut store, "ci");
    let mut keeper = Keeper::new(place.sources()).expect("the sources are right");
    assert!(open(&keeper.keys, &text).is_some());
    let new = NewKey {
        name: name("b"),
        is_admin: false,
        expires: None,
        policy: isol8_core::config::Policy::default(),
    };
    let added = store.add(&new, Timestamp::now(), |_| {
        // Somebody writes meanwhile.
        keeper.look();
        assert!(
            keeper
                .said
                .as_deref()
                .is_some_and(|said| said.contains("in use"))
        );
        assert!(open(&keeper.keys, &text).is_some());
        Ok(())
    });
    added.expect("it is new");
    keeper.look();
    assert_eq!(keeper.said, None);
}
