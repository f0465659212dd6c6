//! S3 servers that end with their test: moto, which `cargo xtask test` installs, and MinIO, which a long run builds if it can.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    World,
    server::{Says, Server, installed},
};

/// Who may do everything; moto asks nobody.
const KEY_ID: &str = "testing";
const SECRET: &str = "testing-secret";

/// Makes one call with boto3, and prints the answer or the code of the error.
const CALL: &str = r"
import boto3, json, sys
endpoint, key_id, secret, operation, parameters = sys.argv[1:]
client = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key_id, aws_secret_access_key=secret, region_name='us-east-1')
try:
    answer = getattr(client, operation)(**json.loads(parameters))
    answer.pop('Body', None)
    print(json.dumps({'answer': answer}, default=str))
except client.exceptions.ClientError as error:
    print(json.dumps({'code': error.response['Error']['Code']}))
";

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Kind {
    /// Python, and lax in places: it lets locks be made shorter.
    Moto,
    /// A real server.
    Minio,
}

/// An S3 server that ends with the test.
#[derive(Debug)]
pub struct S3Server {
    /// Which.
    pub kind: S3Kind,
    server: Server,
    /// What it needs on disk.
    folder: Option<TempDir>,
    /// The network namespace in which it runs, if not that of the test.
    namespace: Option<String>,
}

fn tools() -> PathBuf {
    installed("s3-server/python/bin")
}

/// A program of the tools, run in a network namespace.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(tools().join(program));
    command
}

impl S3Server {
    /// All that there are here: moto, and in a long run MinIO, if it could be built.
    pub fn all() -> Vec<Self> {
        let minio = std::env::var_os("FARSHORE_MINIO").map(|program| Self::minio(Path::new(&program)));
        std::iter::once(Self::moto()).chain(minio).collect()
    }

    /// moto, by the machine's time.
    pub fn moto() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ahead = folder.path().join("ahead");
        fs::write(&ahead, "0").expect("written");
        let mut server = Self::moto_ahead(&ahead);
        server.folder = Some(folder);
        server
    }

    /// moto, whose time is ahead by the seconds in this file.
    pub fn moto_ahead(ahead: &Path) -> Self {
        let command = Command::new(tools().join("python"));
        Self::moto_by(command, ahead, "127.0.0.1", None)
    }

    /// moto in a network namespace, at an address of that.
    pub fn moto_in(namespace: &str, address: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ahead = folder.path().join("ahead");
        fs::write(&ahead, "0").expect("written");
        let mut server = Self::moto_by(inside(namespace, "python"), &ahead, address, Some(namespace.to_owned()));
        server.folder = Some(folder);
        server
    }

    fn moto_by(mut command: Command, ahead: &Path, address: &str, namespace: Option<String>) -> Self {
        command.arg("-c").arg(include_str!("moto.py")).args([ahead.as_os_str(), address.as_ref()]);
        Self { kind: S3Kind::Moto, server: Server::start(command, Says::Errors, "http://"), folder: None, namespace }
    }

    fn minio(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // It cannot be asked for a port that is free.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let mut command = Command::new(program);
        command.args(["server", "--address", &format!("127.0.0.1:{port}"), "--certs-dir"]);
        command.arg(folder.path().join("certs")).arg(folder.path().join("buckets"));
        command.env("MINIO_ROOT_USER", KEY_ID).env("MINIO_ROOT_PASSWORD", SECRET);
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off").env("HOME", folder.path());
        let server = Server::start(command, Says::Errors, "API: http://");
        Self { kind: S3Kind::Minio, server, folder: Some(folder), namespace: None }
    }

    /// Where it listens, without a scheme.
    pub fn address(&self) -> &str {
        &self.server.said
    }

    /// Its answer to a call of boto3, by the name of the method and its arguments; or the code of its error.
    ///
    /// # Errors
    /// The server refused.
    ///
    /// # Panics
    /// There was no answer.
    pub fn call(&self, operation: &str, parameters: &Value) -> Result<Value, String> {
        let mut command = match &self.namespace {
            Some(namespace) => inside(namespace, "python"),
            None => Command::new(tools().join("python")),
        };
        command.args(["-c", CALL, &format!("http://{}", self.address()), KEY_ID, SECRET, operation]);
        let output = command.arg(parameters.to_string()).output().expect("Python runs");
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{operation}: {}", String::from_utf8_lossy(&output.stderr)));
        match told["code"].as_str() {
            Some(code) => Err(code.to_owned()),
            None => Ok(told["answer"].clone()),
        }
    }

    /// Moves a world's vault, which is not made yet, to this address.
    ///
    /// # Panics
    /// The configuration cannot be changed.
    pub fn keep(&self, world: &World, address: &str) {
        let file = world.site.configuration_file();
        let text = fs::read_to_string(&file).expect("the configuration");
        let folder = format!("address = \"file:{}\"", world.site.vault_folder().display());
        assert!(text.contains(&folder), "{text}");
        let text = text.replace(&folder, &format!("address = \"{address}\""));
        let options = format!(
            "\n[vault.options]\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\nallow-http = true\n\n\
             [vault.secrets]\naccess-key-id = {{ file = \"s3-key-id\" }}\nsecret-access-key = {{ file = \"s3-secret\" }}\n",
            self.address()
        );
        fs::write(&file, text + &options).expect("written");
        for (name, secret) in [("s3-key-id", KEY_ID), ("s3-secret", SECRET)] {
            let place = file.with_file_name(name);
            fs::write(&place, format!("{secret}\n")).expect("written");
            fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed to others");
        }
    }
}
