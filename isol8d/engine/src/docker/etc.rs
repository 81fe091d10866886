//! The few files of `/etc` that a sandbox gets from us.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use isol8_core::sandbox::Network;

/// Files that make the sandbox's uid a user with a name, and `localhost` an
/// address: with its network off, the engine writes none.
pub(super) fn write(
    folder: &Path,
    uid: u32,
    network: Network,
) -> io::Result<Vec<(&'static str, PathBuf)>> {
    let passwd = format!(
        "root:x:0:0:root:/root:/usr/sbin/nologin\n\
         sandbox:x:{uid}:{uid}:sandbox:/sandbox:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nsandbox:x:{uid}:\nnogroup:x:65534:\n");
    let hosts = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let mut files = vec![("passwd", passwd), ("group", group)];
    if network != Network::Host {
        files.push(("hosts", hosts.to_owned()));
    }
    let mut written = Vec::with_capacity(files.len());
    for (name, text) in files {
        let path = folder.join(name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        // The umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        written.push((name, path));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_has_a_name_and_localhost_an_address() {
        let folder = tempfile::tempdir().unwrap();
        let written = write(folder.path(), 200_001, Network::None).unwrap();
        let names: Vec<&str> = written.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["passwd", "group", "hosts"]);
        let passwd = fs::read_to_string(&written[0].1).unwrap();
        assert!(passwd.contains("\nsandbox:x:200001:200001:sandbox:/sandbox:/bin/sh\n"));
        let again = write(folder.path(), 1, Network::None);
        assert!(again.is_err(), "nothing is overwritten");
        let other = tempfile::tempdir().unwrap();
        let written = write(other.path(), 1, Network::Host).unwrap();
        assert_eq!(written.len(), 2, "the host's own names hold");
    }
}
