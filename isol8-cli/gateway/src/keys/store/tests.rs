//! The database: what is kept, who may, and several at once.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use tempfile::TempDir;

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("it is in range")
}

fn name(text: &str) -> KeyName {
    text.parse().expect("a name")
}

fn new(text: &str) -> NewKey {
    NewKey {
        name: name(text),
        is_admin: false,
        expires: None,
        policy: config::Policy::default(),
    }
}

fn add(store: &mut Store, text: &str) -> String {
    let added = store.add(&new(text), NOW, |text| Ok(text.to_owned()));
    added.expect("it is new")
}

fn rotate(store: &mut Store, text: &str, keep: Option<Timestamp>) -> String {
    let rotation = Rotation {
        keep,
        expires: None,
    };
    let rotated = store.rotate(&name(text), &rotation, NOW, |text| Ok(text.to_owned()));
    rotated.expect("it is there")
}

fn list(store: &Store) -> Vec<Stored> {
    let listed = store.list().expect("it can be read");
    listed
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("all make sense")
}

fn digests(key: &Stored) -> Vec<Digest> {
    key.keys().map(|key| key.digest).collect()
}

struct Place {
    folder: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state/keys.db");
    Place { folder, path }
}

fn open(place: &Place) -> Store {
    Store::open(&place.path).expect("it can be made")
}

#[test]
fn a_key_is_kept_as_a_digest() {
    let place = place();
    assert!(Store::find(&place.path).expect("no trouble").is_none());
    let mut store = open(&place);
    let policy = config::Policy {
        max_memory: Some("64m".parse().expect("a size")),
        images: Some(vec!["a".to_owned()]),
        ..config::Policy::default()
    };
    let new = NewKey {
        is_admin: true,
        expires: Some(at(100)),
        policy: policy.clone(),
        ..new("ci")
    };
    let added = store.add(&new, at(1), |text| Ok(text.to_owned()));
    let text = added.expect("it is new");
    assert!(text.starts_with("isol8_") && text.len() == 6 + 52, "{text}");
    let other = add(&mut store, "b");
    assert_ne!(text, other);
    drop(store);

    let file = fs::read(&place.path).expect("it is there");
    let holds = |part: &str| {
        file.windows(part.len())
            .any(|window| window == part.as_bytes())
    };
    assert!(holds("ci") && !holds(&text[6..]) && !holds("isol8_"));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&place.path), 0o600);
    assert_eq!(mode(place.path.parent().expect("a folder")), 0o700);

    let store = Store::find(&place.path)
        .expect("no trouble")
        .expect("it is there");
    let [b, ci] = &list(&store)[..] else {
        panic!("two keys")
    };
    assert_eq!((ci.name.as_str(), b.name.as_str()), ("ci", "b"));
    assert!(ci.is_admin && !b.is_admin);
    assert_eq!(
        (&ci.policy, &b.policy),
        (&policy, &config::Policy::default())
    );
    assert_eq!(
        (ci.created, ci.expires, ci.last_used),
        (at(1), Some(at(100)), None)
    );
    assert_eq!(digests(ci), [digest_of(&text)]);
    assert_eq!(ci.owner.len(), super::super::OWNER_CHARS);
    assert_ne!(ci.owner, b.owner);
    let key = ci.keys().next().expect("its text");
    assert!(key.is_admin && key.is_expired(at(100)) && !key.is_expired(at(99)));
}

#[test]
fn a_rotated_key_stays_the_same_key() {
    let place = place();
    let mut store = open(&place);
    let first = add(&mut store, "ci");
    let owner = list(&store)[0].owner.clone();

    let second = rotate(&mut store, "ci", Some(at(50)));
    let key = &list(&store)[0];
    assert_eq!(digests(key), [digest_of(&second), digest_of(&first)]);
    let ends: Vec<_> = key.keys().map(|key| key.expires).collect();
    assert_eq!(ends, [None, Some(at(50))]);
    assert_eq!(key.old_text_until(NOW), Some(at(50)));
    assert_eq!(key.old_text_until(at(50)), None);

    let third = rotate(&mut store, "ci", None);
    let key = &list(&store)[0];
    assert_eq!(
        digests(key),
        [digest_of(&third)],
        "no text from before is left"
    );
    assert_eq!(key.owner, owner);

    let renewed = Rotation {
        keep: None,
        expires: Some(at(1000)),
    };
    let done = store.rotate(&name("ci"), &renewed, NOW, |_| Ok(()));
    done.expect("it is there");
    assert_eq!(list(&store)[0].expires, Some(at(1000)));
    rotate(&mut store, "ci", Some(at(2000)));
    let ends: Vec<_> = list(&store)[0].keys().map(|key| key.expires).collect();
    assert_eq!(
        ends,
        [Some(at(1000)); 2],
        "an old text lives no longer than its key"
    );
}

#[test]
fn a_key_of_the_same_name_is_another_one() {
    let place = place();
    let mut store = open(&place);
    add(&mut store, "ci");
    let owner = list(&store)[0].owner.clone();
    let failure = store
        .add(&new("ci"), NOW, |_| Ok(()))
        .expect_err("it is there");
    assert!(failure.to_string().contains("`ci` already"), "{failure}");
    store.remove(&name("ci")).expect("it is there");
    assert!(list(&store).is_empty());
    add(&mut store, "ci");
    assert_ne!(list(&store)[0].owner, owner);
    assert_eq!(
        digests(&list(&store)[0]).len(),
        1,
        "the text went with its key"
    );
    for failure in [
        store.remove(&name("none")).expect_err("there is none"),
        store
            .rotate(
                &name("none"),
                &Rotation {
                    keep: None,
                    expires: None,
                },
                NOW,
                |_| Ok(()),
            )
            .expect_err("there is none"),
    ] {
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}

#[test]
fn a_text_that_nobody_saw_is_no_key() {
    let place = place();
    let mut store = open(&place);
    let first = add(&mut store, "ci");
    let fail = |_: &str| Err::<(), _>(Failure::new(FailureKind::NoSpace, "stdout is full"));
    store
        .add(&new("b"), NOW, fail)
        .expect_err("it was not delivered");
    let rotation = Rotation {
        keep: None,
        expires: None,
    };
    let rotated = store.rotate(&name("ci"), &rotation, NOW, fail);
    rotated.expect_err("it was not delivered");
    let [key] = &list(&store)[..] else {
        panic!("one key")
    };
    assert_eq!(digests(key), [digest_of(&first)]);
}

#[test]
fn many_write_at_once() {
    let place = place();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &place.path;
            scope.spawn(move || {
                // Each makes the tables if it is the first.
                let mut store = Store::open(path).expect("it can be made");
                for key in 0..5 {
                    add(&mut store, &format!("{writer}.{key}"));
                }
            });
        }
    });
    assert_eq!(list(&open(&place)).len(), 40);
}

#[test]
fn a_reader_sees_what_others_write_and_not_what_it_notes_itself() {
    let place = place();
    let mut writer = open(&place);
    add(&mut writer, "ci");
    let reader = open(&place);
    let version = || reader.version().expect("it can be read");
    let before = version();
    let owner = list(&reader)[0].owner.clone();
    for used_ms in [7000, 5000] {
        reader.note_use(&owner, used_ms).expect("it can be written");
    }
    reader
        .note_use("nobody", 9000)
        .expect("no key is no trouble");
    assert_eq!(version(), before);
    assert_eq!(
        list(&writer)[0].last_used,
        Some(at(7)),
        "it never goes back"
    );
    add(&mut writer, "b");
    assert_ne!(version(), before);
    assert_eq!(list(&reader).len(), 2);
}

#[test]
fn a_newer_database_is_left_alone() {
    let place = place();
    let mut store = open(&place);
    add(&mut store, "ci");
    store
        .connection
        .pragma_update(None, "user_version", schema::VERSION + 1)
        .expect("it is ours");
    drop(store);
    let failure = Store::open(&place.path).expect_err("it is newer");
    assert!(
        failure.to_string().contains("of a newer isol8"),
        "{failure}"
    );
    assert!(failure.hint.is_some());
}

#[test]
fn what_is_no_key_database_is_refused() {
    let place = place();
    fs::create_dir_all(place.path.parent().expect("a folder")).expect("it is ours");
    let private = || fs::set_permissions(&place.path, fs::Permissions::from_mode(0o600));
    fs::write(&place.path, "a text of more than sixteen bytes").expect("it is ours");
    private().expect("it is ours");
    let failure = Store::open(&place.path).expect_err("it is a text");
    assert!(
        failure.to_string().contains("damaged, or is none"),
        "{failure}"
    );

    fs::remove_file(&place.path).expect("it is ours");
    let other = Connection::open(&place.path).expect("it can be made");
    other
        .execute_batch("CREATE TABLE a (b)")
        .expect("it is new");
    drop(other);
    private().expect("it is ours");
    let failure = Store::open(&place.path).expect_err("it is of somebody else");
    assert!(failure.to_string().contains("no key database"), "{failure}");

    fs::remove_file(&place.path).expect("it is ours");
    fs::write(&place.path, "").expect("it is ours");
    private().expect("it is ours");
    assert!(
        list(&open(&place)).is_empty(),
        "an empty file is one that begins"
    );
}

#[test]
fn a_file_that_others_can_change_is_refused() {
    let place = place();
    drop(open(&place));
    let folder = place.path.parent().expect("a folder");
    let with = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        Store::find(&place.path).map(|store| store.is_some())
    };
    for mode in [0o660, 0o606, 0o604, 0o644, 0o620] {
        let failure = with(&place.path, mode).expect_err("it is open");
        assert_eq!(failure.kind, FailureKind::Forbidden, "{mode:o}");
        assert!(
            failure.to_string().contains(&format!("{mode:04o}")),
            "{failure}"
        );
    }
    assert_eq!(
        with(&place.path, 0o640),
        Ok(true),
        "there are digests in it"
    );
    for mode in [0o770, 0o702, 0o1777] {
        let failure = with(folder, mode).expect_err("others can put files there");
        assert!(failure.to_string().contains("its folder"), "{failure}");
    }
    assert_eq!(with(folder, 0o711), Ok(true));
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(&place.path, &link).expect("it is new");
    let failure = Store::find(&link).expect_err("a link");
    assert!(failure.to_string().contains("no regular file"), "{failure}");
}

#[test]
fn nothing_is_made_where_it_would_not_be_safe() {
    let place = place();
    let folder = place.path.parent().expect("a folder");
    fs::create_dir_all(folder).expect("it is ours");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let failure = Store::open(&place.path).expect_err("others could change it");
    assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
    assert!(!place.path.exists());
}

#[test]
fn a_key_that_makes_no_sense_is_told_and_the_others_are_there() {
    let place = place();
    let mut store = open(&place);
    add(&mut store, "a");
    add(&mut store, "b");
    let spoil = "UPDATE keys SET policy = '{\"maxMemry\":1}' WHERE name = 'a'";
    store.connection.execute_batch(spoil).expect("it is ours");
    let listed = store.list().expect("it can be read");
    let [Err(a), Ok(b)] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert!(
        a.to_string().contains("`a`") && a.to_string().contains("maxMemry"),
        "{a}"
    );
    assert_eq!(b.name, "b");
    store.remove(&name("a")).expect("it can be removed");
}
