//! Azure Blob Storage, as far as a machine can have it to itself: Azurite, which is Microsoft's own, started for a
//! test and ended with it. What it holds is asked with Microsoft's own client.

use crate::journey::{killed_on_the_way, there_and_back};
use crate::scratch::Scratch;
use crate::servers::{free_port, program};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONTAINER: &str = "k1-archives";
const ACCOUNT: &str = "k1account";
/// Base64, as Azure's keys are.
const KEY: &str = "azEtdGVzdC1odW50ZXIy";

/// Azurite with an empty container.
pub struct Azure {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Azure {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program("azurite-blob"));
        command
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .arg("--location")
            .arg(folder.path())
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            port,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(240);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "azurite-blob has ended: {ended:?}");
            assert!(Instant::now() < deadline, "azurite-blob does not listen");
            std::thread::yield_now();
        }
        server.asked("await container.create()");
        server
    }

    pub fn stack(&self) -> Scratch {
        let scratch = Scratch::new();
        let config = format!(
            "tier = 'jar'\n[repository]\nurl = 'az://{CONTAINER}/of/k1/'\n\
             endpoint = 'http://127.0.0.1:{}/{ACCOUNT}'\ncredentials = 'store.env'\n",
            self.port
        );
        std::fs::write(scratch.path().join("k1ops.toml"), config).unwrap();
        login(&scratch, KEY);
        scratch
    }

    fn files(&self) -> Vec<String> {
        let code = "for await (const blob of container.listBlobsFlat()) console.log(blob.name)";
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        self.asked(code).lines().map(name).collect()
    }

    /// What Microsoft's own client says to a few lines of JavaScript.
    fn asked(&self, code: &str) -> String {
        let modules = program("azurite-blob").canonicalize().unwrap();
        let modules = modules
            .ancestors()
            .find(|folder| folder.ends_with("node_modules"))
            .unwrap()
            .to_owned();
        let code = format!(
            "const {{BlobServiceClient, StorageSharedKeyCredential}} = require('@azure/storage-blob'); \
             const service = new BlobServiceClient('http://127.0.0.1:{}/{ACCOUNT}', \
             new StorageSharedKeyCredential('{ACCOUNT}', '{KEY}')); \
             const container = service.getContainerClient('{CONTAINER}'); (async () => {{ {code} }})()",
            self.port
        );
        let output = Command::new("node")
            .args(["-e", &code])
            .env("NODE_PATH", modules)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has a stack use this key.
fn login(scratch: &Scratch, key: &str) {
    let file = scratch.path().join("store.env");
    let login = format!("AZURE_STORAGE_ACCOUNT_NAME={ACCOUNT}\nAZURE_STORAGE_ACCOUNT_KEY={key}\n");
    std::fs::write(&file, login).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_stack_goes_to_azure_and_comes_back() {
    let server = Azure::start();
    there_and_back(&server.stack(), "az://", || server.files());
}

#[test]
fn an_upload_to_azure_that_is_killed_is_not_seen_as_an_archive() {
    let server = Azure::start();
    killed_on_the_way(&server.stack(), || server.files());
}

#[test]
fn a_wrong_key_of_azure_is_refused_without_being_shown() {
    let server = Azure::start();
    let scratch = server.stack();
    scratch.run(&["list"]).done();
    login(&scratch, "aHVudGVyMw==");
    let said = scratch.run(&["list"]).failed(3, "Give the credentials");
    assert!(!said.err.contains("aHVudGVyMw"), "{}", said.err);
}
