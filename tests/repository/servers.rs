//! Two S3 servers of different make, started for a test and ended with it.

use crate::scratch::Scratch;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEY: &str = "k1-test-key";
const SECRET: &str = "k1-test-secret-hunter2";
const BUCKET: &str = "k1-archives";

/// Who made the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Moto,
    Versity,
}

pub const MAKES: [Make; 2] = [Make::Moto, Make::Versity];

/// A server with an empty bucket.
pub struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start(make: Make) -> Self {
        let server = Self::without_bucket(make);
        server.boto("s3.create_bucket(Bucket=bucket)");
        server
    }

    /// A server whose bucket keeps every version, and can lock them.
    pub fn that_locks(make: Make) -> Self {
        let server = Self::without_bucket(make);
        server.boto("s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)");
        server
    }

    fn without_bucket(make: Make) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = match make {
            Make::Moto => {
                let mut command = Command::new(program("moto_server"));
                command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                command
            }
            Make::Versity => {
                let mut command = Command::new(program("versitygw"));
                let address = format!("127.0.0.1:{port}");
                command.args(["--port", &address, "--quiet", "posix"]);
                for name in ["versions", "buckets"] {
                    std::fs::create_dir(folder.path().join(name)).unwrap();
                }
                command
                    .arg("--versioning-dir")
                    .arg(folder.path().join("versions"));
                command.arg(folder.path().join("buckets"));
                command.env("ROOT_ACCESS_KEY", KEY);
                command.env("ROOT_SECRET_KEY", SECRET);
                command
            }
        };
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            port,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(240);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{make:?} does not listen");
            std::thread::yield_now();
        }
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A stack that keeps its archives on this server, reached at `port`.
    pub fn stack_by(port: u16) -> Scratch {
        let scratch = Scratch::new();
        let place = Self::place_by(port, scratch.path());
        let config = format!("tier = 'jar'\n[repository]\n{place}");
        std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
        scratch
    }

    /// The keys of a place on this server, with credentials beside the stack.
    fn place_by(port: u16, folder: &Path) -> String {
        let keys = format!("AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\n");
        let file = folder.join("store.env");
        std::fs::write(&file, keys).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!(
            "url = 's3://{BUCKET}/of/k1/'\nendpoint = 'http://127.0.0.1:{port}'\n\
             credentials = 'store.env'\n"
        )
    }

    /// The keys of a place on this server, for a stack in `folder`.
    pub fn place(&self, folder: &Path) -> String {
        Self::place_by(self.port, folder)
    }

    /// Removes an object, by another client.
    pub fn remove(&self, name: &str) {
        self.boto(&format!("s3.delete_object(Bucket=bucket, Key='{name}')"));
    }

    /// The SHA-256 of an object, by another client.
    pub fn digest(&self, name: &str) -> String {
        let code = format!(
            "import hashlib; print(hashlib.sha256(\
             s3.get_object(Bucket=bucket, Key='{name}')['Body'].read()).hexdigest())"
        );
        self.lines(&code).remove(0)
    }

    pub fn stack(&self) -> Scratch {
        Self::stack_by(self.port)
    }

    /// Names of everything in the bucket, by another client.
    pub fn objects(&self) -> Vec<String> {
        self.lines("print(*[o['Key'] for o in s3.list_objects_v2(Bucket=bucket).get('Contents', [])], sep='\\n')")
    }

    /// Names of uploads that were begun and not finished, by another client.
    pub fn uploads(&self) -> Vec<String> {
        self.lines("print(*[u['Key'] for u in s3.list_multipart_uploads(Bucket=bucket).get('Uploads', [])], sep='\\n')")
    }

    /// What another client says to a few lines of Python.
    pub fn lines(&self, code: &str) -> Vec<String> {
        let said = self.boto(code);
        said.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn boto(&self, code: &str) -> String {
        let code = format!(
            "import boto3\ns3 = boto3.client('s3', endpoint_url='{}', region_name='us-east-1')\n\
             bucket = '{BUCKET}'\n{code}",
            self.endpoint()
        );
        let python = program("moto_server").canonicalize().unwrap();
        let python = python.parent().unwrap().join("python3");
        let output = Command::new(python)
            .args(["-c", &code])
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
        .unwrap_or_else(|| {
            panic!("{name} is not there: run this test through `scripts/test`, which installs it")
        })
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

pub fn free_port() -> u16 {
    k1ops::adapters::port::any_free().unwrap()
}

/// A way to a server that counts what comes back.
pub struct Counter {
    pub port: u16,
    received: Arc<AtomicU64>,
}

impl Counter {
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(AtomicU64::new(0));
        let counted = received.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let counted = counted.clone();
                std::thread::spawn(move || pump(from, to, &counted));
                std::thread::spawn(move || pump(client, server, &AtomicU64::new(0)));
            }
        });
        Self { port, received }
    }

    /// Bytes that came back since this was asked last.
    pub fn taken(&self) -> u64 {
        self.received.swap(0, Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(read as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
