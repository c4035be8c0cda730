//! A network between k1ops and `PostgreSQL` that can be cut, slowed down, and made to look as if
//! the stream had ended.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They pass.
    Fair,
    /// After so many bytes from the server the connection is closed in order, as if that were all.
    Ends { after: u64 },
    /// After so many bytes either way everything is cut, and stays cut.
    Outage { after: u64 },
    /// They pass slowly, in small pieces.
    Slow,
}

/// Listens until the process ends.
pub struct Proxy {
    pub port: u16,
    sky: Arc<Sky>,
}

struct Sky {
    target: AtomicU16,
    weather: Mutex<(Weather, u64)>,
    struck: AtomicBool,
}

enum Fate {
    Pass(u64),
    Close,
}

impl Proxy {
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sky = Arc::new(Sky {
            target: AtomicU16::new(target),
            weather: Mutex::new((Weather::Fair, 0)),
            struck: AtomicBool::new(false),
        });
        let shared = sky.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connect(client);
            }
        });
        Self { port, sky }
    }

    pub fn set(&self, weather: Weather) {
        *self.sky.weather.lock().unwrap() = (weather, 0);
        self.sky.struck.store(false, Ordering::SeqCst);
    }

    /// Whether the weather has done something.
    pub fn struck(&self) -> bool {
        self.sky.struck.load(Ordering::SeqCst)
    }
}

impl Sky {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        if self.is_out() {
            return;
        }
        let target = ("127.0.0.1", self.target.load(Ordering::SeqCst));
        let Ok(server) = TcpStream::connect(target) else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let sky = self.clone();
        std::thread::spawn(move || sky.pump(from, to, true));
        let sky = self.clone();
        std::thread::spawn(move || sky.pump(client, server, false));
    }

    fn is_out(&self) -> bool {
        let (weather, passed) = *self.weather.lock().unwrap();
        matches!(weather, Weather::Outage { after } if passed >= after)
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, from_server: bool) {
        let mut buffer = [0; 2048];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            match self.fate(read as u64, from_server) {
                Fate::Pass(most) => {
                    let most = usize::try_from(most).unwrap();
                    if to.write_all(&buffer[..most]).is_err() {
                        break;
                    }
                    if most < read {
                        break;
                    }
                }
                Fate::Close => break,
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    fn fate(&self, bytes: u64, from_server: bool) -> Fate {
        let mut now = self.weather.lock().unwrap();
        let (weather, passed) = *now;
        let until = match weather {
            Weather::Fair => return Fate::Pass(bytes),
            Weather::Slow => {
                self.struck.store(true, Ordering::SeqCst);
                drop(now);
                std::thread::sleep(Duration::from_millis(1));
                return Fate::Pass(bytes);
            }
            Weather::Ends { .. } if !from_server => return Fate::Pass(bytes),
            // Only one stream ends; what is opened afterwards works.
            Weather::Ends { after } if passed > after => return Fate::Pass(bytes),
            Weather::Ends { after } | Weather::Outage { after } => after,
        };
        now.1 = passed + bytes;
        if now.1 <= until {
            return Fate::Pass(bytes);
        }
        self.struck.store(true, Ordering::SeqCst);
        match until.saturating_sub(passed) {
            0 => Fate::Close,
            rest => Fate::Pass(rest),
        }
    }
}
