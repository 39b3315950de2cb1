//! What needs root or other packages: an independent reader of the lake, a full disk, a read-only lake, a lake on S3.
//!
//! `tests/servers/run` brings them and switches the feature `servers` on. Then every test that proves "exactly once" asks
//! the independent reader too.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    Folder, committed, count, exactly_once, push, seconds, table_status, visible, wait_for,
};

mod columnar;
mod databases;
mod exports;
mod flight_views;
mod foreign_cluster;
mod imports;
mod mariadb;
mod mariadb_server;
mod mariadb_types;
mod postgres_server;
mod s3;
mod splits;

/// DuckDB's word on a table of the lake in `folder`.
#[track_caller]
pub(crate) fn lake_check(folder: &Folder, table: &str, rows: i64, dead: i64) {
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/lake_check.py");
    s3::copy_lake(folder);
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path("lake"))
        .arg(table)
        .args(["--rows", &rows.to_string(), "--dead", &dead.to_string()])
        .output()
        .expect("start the independent reader");
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "the independent reader says of `{table}`: {printed}{said}");
}

/// A file system of its own, gone when it is dropped.
struct Mount {
    at: PathBuf,
}

impl Mount {
    /// A real ext4 of `mib` MiB on a loop device.
    fn ext4(folder: &Folder, at: &str, mib: u64) -> Mount {
        let (image, at) = (folder.path(format!("{at}.img")), folder.path(at));
        fs::create_dir_all(&at).expect("create the mount point");
        let file = fs::File::create(&image).expect("create the image");
        file.set_len(mib << 20).expect("size the image");
        call(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        call(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Mount { at }
    }

    /// A file system in memory.
    fn memory(folder: &Folder, at: &str) -> Mount {
        let at = folder.path(at);
        fs::create_dir_all(&at).expect("create the mount point");
        call(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&at));
        Mount { at }
    }

    fn remount(&self, how: &str) {
        call(Command::new("mount").arg("-o").arg(format!("remount,{how}")).arg(&self.at));
    }

    /// Fills it to the last block.
    fn fill(&self) -> PathBuf {
        let ballast = self.at.join("ballast");
        let mut file = fs::File::create(&ballast).expect("create the ballast");
        for size in [1 << 16, 1 << 12, 1 << 9, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[track_caller]
fn call(command: &mut Command) {
    let output = command.output().expect("start it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const CONFIG: &str = r#"
data_dir = "data"

[log]
segment_size = "1MiB"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "ndjson"
topic = "events"
key = "id"
every = "50ms"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "200ms"
"#;

/// Records with some weight.
fn heavy(from: i64, n: i64) -> String {
    (from..from + n)
        .map(|id| format!("{{\"id\":{id},\"text\":\"event {id} {}\"}}\n", "x".repeat(100)))
        .collect()
}

/// The lake takes nothing for a while: it waits, says so, answers from the tail, and goes on by itself.
fn while_the_lake_refuses(folder: &Folder, refuse: impl FnOnce(), allow: impl FnOnce()) {
    fs::create_dir_all(folder.path("in")).expect("create the folder");
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(push(&client, &heavy(0, 500)), 200);
    visible(&client, 500);
    committed(&client);
    refuse();
    assert_eq!(push(&client, &heavy(500, 500)), 200, "the log still has room");
    visible(&client, 1000);
    wait_for("the table to say that it waits", seconds(60), || {
        let table = table_status(&client)?;
        (table["state"] == "waiting" && table["last_error"]["message"].is_string()).then_some(())
    });
    assert_eq!(push(&client, &heavy(1000, 500)), 200);
    visible(&client, 1500);
    allow();
    committed(&client);
    assert_eq!(push(&client, &heavy(1500, 10)), 200);
    visible(&client, 1510);
    committed(&client);
    let table = table_status(&client).expect("a table");
    assert_eq!(table["state"], "running", "{table}");
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(folder, "events", 1510, 0);
    folder.never_panicked();
}

#[test]
fn a_full_disk_under_the_lake_is_waited_out() {
    let folder = Folder::new(CONFIG);
    let mount = Mount::ext4(&folder, "lake", 16);
    let ballast = mount.at.join("ballast");
    while_the_lake_refuses(&folder, || drop(mount.fill()), || fs::remove_file(ballast).expect("make room"));
    drop(mount);
}

#[test]
fn a_read_only_lake_is_waited_out() {
    let folder = Folder::new(CONFIG);
    let mount = Mount::memory(&folder, "lake");
    while_the_lake_refuses(&folder, || mount.remount("ro"), || mount.remount("rw"));
    drop(mount);
}

#[test]
fn a_full_disk_under_the_log_refuses_pushes_and_loses_nothing() {
    let folder = Folder::new(CONFIG);
    let mount = Mount::ext4(&folder, "data", 48);
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(push(&client, &heavy(0, 500)), 200);
    visible(&client, 500);
    let ballast = mount.fill();
    // Fresh blocks are needed sooner or later: from then on a push is refused, and refused means not there.
    let mut acknowledged = 500;
    wait_for("a push to be refused", seconds(60), || match push(&client, &heavy(acknowledged, 500)) {
        200 => {
            acknowledged += 500;
            None
        }
        status => {
            assert!(status >= 500, "a full disk is not the client's mistake: {status}");
            Some(())
        }
    });
    folder.put("in/waiting.ndjson", heavy(1_000_000, 2_000));
    wait_for("the spool source to say that it waits", seconds(60), || {
        let status = client.get("/v1/status").ok()?.json();
        let spool = status["sources"].as_array()?.iter().find(|source| source["name"] == "spool")?.clone();
        (spool["last_error"]["message"].is_string()).then_some(())
    });
    visible(&client, acknowledged);
    fs::remove_file(ballast).expect("make room");
    visible(&client, acknowledged + 2_000);
    wait_for("a push to be taken again", seconds(60), || {
        (push(&client, &heavy(acknowledged, 500)) == 200).then_some(())
    });
    acknowledged += 500;
    visible(&client, acknowledged + 2_000);
    committed(&client);
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "events", acknowledged + 2_000, 0);
    folder.never_panicked();
    drop(mount);
}

#[test]
fn what_comes_over_sockets_while_the_disk_is_full_is_held_and_there_once_when_there_is_room() {
    let config = CONFIG.split("[[source]]\nname = \"spool\"").next().expect("the head").to_owned()
        + r#"
[[source]]
name = "net"
type = "netcat"
tcp = "127.0.0.1:0"
acknowledge = true
format = "ndjson"
topic = "net"
[[source]]
name = "syslog"
type = "syslog"
tcp = "127.0.0.1:0"
topic = "syslog"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "200ms"
[[table]]
name = "net"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "200ms"
[[table]]
name = "syslog"
columns = "priority INT, message VARCHAR NOT NULL"
unknown_fields = "drop"
commit_every = "200ms"
"#;
    let folder = Folder::new(&config);
    let mount = Mount::ext4(&folder, "data", 48);
    let mut running = folder.start();
    let client = running.ready();
    let source = |name: &str| {
        let status = client.get("/v1/status").ok()?.json();
        status["sources"].as_array()?.iter().find(|source| source["name"] == name).cloned()
    };
    let door = |name: &str| {
        let address = wait_for("the door", seconds(30), || {
            Some(source(name)?["addresses"][0].as_str()?.strip_prefix("tcp ")?.to_owned())
        });
        TcpStream::connect(address).expect("a connection")
    };
    let (mut net, mut syslog) = (door("net"), door("syslog"));
    net.write_all(heavy(0, 100).as_bytes()).expect("sent");
    let mut told = vec![0; 300];
    net.read_exact(&mut told).expect("told");
    assert_eq!(told, "OK\n".repeat(100).as_bytes());

    let ballast = mount.fill();
    let mut pushed = 0;
    wait_for("a push to be refused", seconds(60), || match push(&client, &heavy(pushed, 500)) {
        200 => {
            pushed += 500;
            None
        }
        _ => Some(()),
    });
    net.write_all(heavy(100, 2_000).as_bytes()).expect("sent");
    for n in 0..2_000 {
        let message = format!("<13>1 2026-01-01T00:00:00Z h app - - - message {n} {}\n", "y".repeat(100));
        syslog.write_all(message.as_bytes()).expect("sent");
    }
    for name in ["net", "syslog"] {
        wait_for("the source to say that it waits", seconds(60), || {
            source(name)?["last_error"]["message"].is_string().then_some(())
        });
    }
    fs::remove_file(ballast).expect("make room");
    let mut told = vec![0; 3 * 2_000];
    net.read_exact(&mut told).expect("told");
    assert_eq!(told, "OK\n".repeat(2_000).as_bytes());
    wait_for("every message", seconds(60), || (count(&client, "syslog")? == 2_000).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "events", pushed, 0);
    exactly_once(&folder, "net", 2_100, 0);
    exactly_once(&folder, "syslog", 2_000, 0);
    folder.never_panicked();
    drop(mount);
}

#[test]
fn a_full_disk_at_start_is_an_error_with_a_hint() {
    let folder = Folder::new(CONFIG);
    let mount = Mount::ext4(&folder, "data", 16);
    let ballast = mount.fill();
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("hint:"), "{}", ended.said);
    fs::remove_file(ballast).expect("make room");
    folder.put("in/a.ndjson", heavy(0, 100));
    folder.drained();
    exactly_once(&folder, "events", 100, 0);
    folder.never_panicked();
    drop(mount);
}

/// The blocks of the README's tour, but for the build, typed into a shell.
#[test]
fn the_tour_of_the_readme_works_as_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("read the README");
    let (_, tour) = readme.split_once("## Five minutes").expect("the tour");
    let (tour, _) = tour.split_once("\n## ").expect("the end of the tour");
    let blocks: Vec<&str> = tour
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .skip(1)
        .collect();
    assert!(blocks.len() > 3, "the tour has {} blocks", blocks.len());
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let script = format!("set -eux\n{}", blocks.concat()).replace("8080", &port.to_string());
    let folder = Folder::new("");
    let binary = Path::new(env!("CARGO_BIN_EXE_tarn")).parent().expect("a folder").display().to_string();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path(""))
        .env("PATH", format!("{binary}:{}", std::env::var("PATH").unwrap_or_default()))
        .output()
        .expect("start bash");
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{said}");
    for word in ["Oslo", "trips.csv", "far"] {
        assert!(printed.contains(word), "`{word}` was not shown:\n{printed}\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}
