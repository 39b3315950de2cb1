//! A real MQTT broker, Debian's mosquitto, with paho-mqtt as the sender.
//!
//! `tests/servers/run` brings them.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::json;

use crate::harness::{Client, Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "sensors"
type = "mqtt"
broker = "127.0.0.1:PORT"
subscribe = ["s/+/celsius", "alarms/#"]
qos = 2
topic = "readings"
[[source.interceptor]]
type = "header"
header = "topic"
[[source.route]]
topic = "alarms"
header = "topic"
regex = "^alarms/"

[[table]]
name = "readings"
columns = "n BIGINT, qos INT, topic VARCHAR"
commit_every = "200ms"
[[table]]
name = "alarms"
columns = "what VARCHAR, topic VARCHAR"
commit_every = "200ms"
"#;

/// A broker that keeps its sessions over a restart.
struct Mosquitto<'f> {
    folder: &'f Folder,
    child: Child,
    port: u16,
}

impl<'f> Mosquitto<'f> {
    fn start(folder: &'f Folder, port: u16) -> Mosquitto<'f> {
        Mosquitto::start_with(folder, port, "")
    }

    /// With more lines for its listener.
    fn start_with(folder: &'f Folder, port: u16, more: &str) -> Mosquitto<'f> {
        std::fs::create_dir_all(folder.path("broker")).expect("create the folder");
        let dir = folder.path("broker").to_string_lossy().into_owned();
        folder.put(
            "broker/mosquitto.conf",
            format!(
                "listener {port} 127.0.0.1\n{more}allow_anonymous true\npersistence true\npersistence_location {dir}/\n\
                 max_queued_messages 0\nuser root\n"
            ),
        );
        let child = Command::new("mosquitto")
            .args(["-c", &format!("{dir}/mosquitto.conf")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto: start these tests with tests/servers/run");
        let started = Mosquitto { folder, child, port };
        wait_for("the broker", seconds(30), || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        started
    }

    /// It stops as it is told to, and writes down what it has.
    fn restarted(mut self) -> Mosquitto<'f> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the broker");
        self.child.wait().expect("its end");
        Mosquitto::start(self.folder, self.port)
    }
}

impl Drop for Mosquitto<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|door| door.local_addr()).expect("a free port").port()
}

fn python() -> Command {
    let python = std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A sender of numbered messages, which asks after each hundred whether it may go on.
struct Sender {
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
}

impl Sender {
    fn start(port: u16, qos: u8, count: u32, rate: u32) -> Sender {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/mqtt_send.py");
        let words = [u32::from(port), u32::from(qos), count, rate].map(|word| word.to_string());
        let mut command = python();
        command.arg(script).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python");
        let told = BufReader::new(child.stdout.take().expect("its output")).lines();
        Sender { child, told }
    }

    /// Once the broker has confirmed a hundred more.
    fn pauses(&mut self) {
        self.told.next().expect("a line").expect("its output");
    }

    fn goes_on(&mut self) {
        self.child.stdin.as_mut().expect("its input").write_all(b"\n").expect("it reads");
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connected(client: &Client) {
    wait_for("the session", seconds(60), || {
        let status = client.get("/v1/status").ok()?.json();
        let source = &status["sources"][0];
        (source["addresses"].as_array().is_some_and(|all| !all.is_empty()) && source["last_error"].is_null())
            .then_some(())
    });
}

#[test]
fn no_message_is_lost_and_none_of_quality_two_is_there_twice_whatever_is_killed() {
    const MESSAGES: u32 = 2000;
    let port = free_port();
    let folder = Folder::new(&CONFIG.replace("PORT", &port.to_string()));
    let mut broker = Mosquitto::start(&folder, port);
    // The subscription is there before anything is sent.
    let mut running = folder.start();
    connected(&running.ready());
    let mut senders = [1, 2].map(|qos| Sender::start(port, qos, MESSAGES, 400));
    for hundred in 1..=MESSAGES / 100 {
        senders.iter_mut().for_each(Sender::pauses);
        if hundred == 9 {
            broker = broker.restarted();
        }
        senders.iter_mut().for_each(Sender::goes_on);
        // While they send.
        if [3, 6, 12, 16].contains(&hundred) {
            running.kill();
            running = folder.start();
        }
    }
    for sender in &mut senders {
        assert!(sender.child.wait().expect("its end").success());
    }
    let client = running.ready();
    let of = |qos: u8, what: &str| {
        let answer = client.sql(&format!("SELECT count({what}) AS n FROM readings WHERE qos = {qos}"));
        answer[0]["n"].as_i64().expect("a number")
    };
    for qos in [1, 2] {
        let all = i64::from(MESSAGES);
        wait_for("every message", seconds(60), || (of(qos, "DISTINCT n") == all).then_some(()));
    }
    assert_eq!(of(2, "*"), i64::from(MESSAGES), "of quality 2 each is there once");
    let twice = of(1, "*") - i64::from(MESSAGES);
    println!(
        "of quality 1, {twice} of {MESSAGES} are there twice after four kills and a restart of the broker"
    );
    assert_eq!(
        client.sql("SELECT count(*) AS n FROM readings WHERE topic <> 's/' || (n % 4) || '/celsius'"),
        [json!({"n": 0})]
    );
    assert_eq!(running.stop().code, Some(0));

    // What comes while Tarn is down waits in the session.
    let publish = |topic: &str, payload: &str| {
        let program = format!(
            "import paho.mqtt.publish as p; p.single({topic:?}, {payload:?}, qos=1, hostname='127.0.0.1', port={port})"
        );
        assert!(python().args(["-c", &program]).status().expect("python").success());
    };
    publish("alarms/cellar/water", r#"{"what": "water"}"#);
    publish("elsewhere", r#"{"what": "nothing"}"#);
    publish("alarms", "no json");
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the alarm", seconds(60), || (count(&client, "lake.alarms")? == 1).then_some(()));
    wait_for("the dead letter", seconds(60), || {
        (count(&client, "lake.readings_dead_letters")? == 1).then_some(())
    });
    assert_eq!(
        client.sql("SELECT what, topic FROM alarms"),
        [json!({"what": "water", "topic": "alarms/cellar/water"})]
    );
    assert_eq!(running.stop().code, Some(0));
    drop(broker);
    let all = folder.number("SELECT count(*) FROM readings");
    assert_eq!(all, 2 * i64::from(MESSAGES) + twice);
    exactly_once(&folder, "readings", all, 1);
    exactly_once(&folder, "alarms", 1, 0);
}

#[test]
fn a_broker_is_reached_through_tls_once_its_certificate_is_believed() {
    let port = free_port();
    let config = CONFIG.replace("127.0.0.1:PORT", &format!("localhost:{port}"));
    let secured = config.replace("qos = 2", "qos = 2\ntls = true\ntls_ca = \"broker/server.crt\"");
    let folder = Folder::new(&secured);
    std::fs::create_dir_all(folder.path("broker")).expect("create the folder");
    for name in ["server", "other"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]);
        openssl.arg(folder.path(format!("broker/{name}.key"))).arg("-out");
        openssl.arg(folder.path(format!("broker/{name}.crt"))).stdin(Stdio::null()).stderr(Stdio::null());
        assert!(openssl.status().expect("openssl").success());
    }
    let path = |name: &str| folder.path(format!("broker/{name}")).to_string_lossy().into_owned();
    let (key, certificate) = (path("server.key"), path("server.crt"));
    let broker = Mosquitto::start_with(&folder, port, &format!("certfile {certificate}\nkeyfile {key}\n"));
    let mut running = folder.start();
    let client = running.ready();
    connected(&client);
    let addresses = client.get("/v1/status").expect("an answer").json()["sources"][0]["addresses"].clone();
    assert_eq!(addresses, json!([format!("mqtts://localhost:{port}")]));
    let program = format!(
        "import paho.mqtt.publish as p; p.multiple([('alarms/%d' % n, '{{\"what\": \"%d\"}}' % n, 2, False) for n in range(500)], \
         hostname='localhost', port={port}, tls={{'ca_certs': {certificate:?}}})"
    );
    assert!(python().args(["-c", &program]).status().expect("python").success());
    wait_for("every message in the lake", seconds(60), || {
        (count(&client, "lake.alarms")? == 500).then_some(())
    });
    assert_eq!(running.stop().code, Some(0));
    exactly_once(&folder, "alarms", 500, 0);
    // Somebody else's certificate, and no TLS at all: it is told, and waited for.
    for (config, wanted) in [
        (secured.replace("server.crt", "other.crt"), "invalid peer certificate"),
        (config, "cannot be reached"),
    ] {
        folder.configure(&config);
        let mut running = folder.start();
        let client = running.ready();
        let told = wait_for("an error", seconds(60), || {
            let status = client.get("/v1/status").ok()?.json();
            Some(status["sources"][0]["last_error"]["message"].as_str()?.to_owned())
        });
        assert!(told.contains(wanted), "wanted `{wanted}`: {told}");
        assert_eq!(running.stop().code, Some(0));
    }
    drop(broker);
}

#[test]
fn the_example_follows_a_broker() {
    let port = free_port();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mqtt.toml");
    let text = std::fs::read_to_string(path).expect("read the example");
    let text =
        text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:1883", &format!("127.0.0.1:{port}"));
    let folder = Folder::new(&text.replace("data-mqtt", "data"));
    let _broker = Mosquitto::start(&folder, port);
    let mut running = folder.start();
    let client = running.ready();
    connected(&client);
    for (topic, value) in
        [("plant/boiler/celsius", "81.5"), ("alarms/boiler", "99"), ("plant/boiler/bar", "3")]
    {
        let payload = format!("{{\"value\": {value}}}");
        let program = format!(
            "import paho.mqtt.publish as p; p.single({topic:?}, {payload:?}, qos=2, hostname='127.0.0.1', port={port})"
        );
        assert!(python().args(["-c", &program]).status().expect("python").success());
    }
    for (table, topic, value) in
        [("readings", "plant/boiler/celsius", 81.5), ("alarms", "alarms/boiler", 99.0)]
    {
        wait_for(table, seconds(60), || (count(&client, table)? == 1).then_some(()));
        let rows = client.sql(&format!("SELECT topic, value FROM {table}"));
        assert_eq!(rows, [json!({"topic": topic, "value": value})]);
    }
    assert_eq!(running.stop().code, Some(0));
}
