//! Two Unix sockets that this user and root alone may open. On one, whoever connects gets the report, and the connection is closed. On
//! the other, a listener gets a line of JSON for whatever happens, until it goes away.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::REPORT;
use super::feed::{FEED, Happening, What};
use crate::atomic_file::folder;
use crate::task::Task;

/// The socket's mode: only who runs the agent, and root.
const PRIVATE: u32 = 0o600;
/// How long a reader may take. The document fits into the kernel's buffer, so a reader that reads nothing takes none of it.
const PATIENCE: Duration = Duration::from_millis(100);
/// Period of looking whether the socket is still there.
const LOOK: Duration = Duration::from_secs(2);
/// So many may listen to the feed at the same time.
const LISTENERS: usize = 16;
/// So many connections may wait.
const WAITING: i32 = 16;

/// What whoever connects gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The report.
    Report,
    /// What happens from now on.
    Feed,
}

/// Answers until it is dropped, which removes the socket. Nothing waits for it, and it needs nothing but the file system.
#[derive(Debug)]
#[must_use = "nobody is answered when this is dropped"]
pub struct ReportServer {
    path: PathBuf,
    bound: Bound,
    _task: Task,
}

/// Device and number of the socket's inode, once there is one.
type Bound = Arc<Mutex<Option<Identity>>>;
type Identity = (u64, u64);

impl ReportServer {
    /// Begins to answer at this path, as soon as no other agent does.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(path: PathBuf, service: Service) -> Self {
        let bound = Bound::default();
        let task = Task::spawn(serve(path.clone(), service, Arc::clone(&bound)));
        Self { path, bound, _task: task }
    }
}

impl Drop for ReportServer {
    fn drop(&mut self) {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).take();
        if bound.is_some_and(|bound| identity(&self.path).is_some_and(|found| found == bound))
            && let Err(error) = fs::remove_file(&self.path)
        {
            debug!(%error, "the socket of the report stays");
        }
    }
}

async fn serve(path: PathBuf, service: Service, bound: Bound) {
    loop {
        match aside(path.clone(), take).await {
            Ok(Some((listener, identity))) => {
                *bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
                if let Ok(listener) = UnixListener::from_std(listener) {
                    tokio::select! {
                        () = answer(&listener, service) => {}
                        () = replaced(&path, identity) => {}
                    }
                }
            }
            Ok(None) => debug!("another agent answers at {}", path.display()),
            Err(error) => debug!("nobody is answered at {}: {error}", path.display()),
        }
        sleep(LOOK).await;
    }
}

/// Answers each connection: with the report one after the other, with the feed many at the same time.
async fn answer(listener: &UnixListener, service: Service) {
    let mut listeners = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) if service == Service::Feed => {
                while listeners.try_join_next().is_some() {}
                // One too many is turned away: the connection is closed.
                if listeners.len() < LISTENERS {
                    listeners.spawn(tell(stream));
                }
            }
            Ok((stream, _)) => {
                if !matches!(timeout(PATIENCE, write(stream)).await, Ok(Ok(()))) {
                    debug!("a reader of the report did not read it");
                }
            }
            // For instance for lack of file descriptors.
            Err(error) => {
                debug!("the report is not given: {error}");
                sleep(LOOK).await;
            }
        }
    }
}

async fn write(mut stream: UnixStream) -> io::Result<()> {
    stream.write_all(&serde_json::to_vec(&REPORT.read())?).await?;
    stream.shutdown().await
}

/// Tells what happens, a line for each, until the listener goes away. What a listener does not read is left out and counted.
async fn tell(stream: UnixStream) {
    let (mut reader, mut writer) = stream.into_split();
    let mut feed = FEED.listen();
    loop {
        let happening = tokio::select! {
            happening = feed.recv() => match happening {
                Ok(happening) => happening,
                Err(RecvError::Lagged(count)) => Happening::now(What::LeftOut { count }),
                Err(RecvError::Closed) => return,
            },
            // Listeners say nothing: it has gone, or is none.
            _ = reader.read_u8() => return,
        };
        let Ok(mut line) = serde_json::to_vec(&happening) else { continue };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Waits until something else is at the path, or nothing.
async fn replaced(path: &Path, bound: Identity) {
    loop {
        sleep(LOOK).await;
        let found = aside(path.to_owned(), |path| Ok(identity(path))).await;
        if found.is_ok_and(|found| found != Some(bound)) {
            return;
        }
    }
}

/// Asks the file system in another thread: it may hang.
async fn aside<T: Send + 'static>(
    path: PathBuf,
    ask: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(move || ask(&path)).await?
}

/// Takes the path; `None` if another agent has it. Removes the socket of an agent that was killed.
fn take(path: &Path) -> io::Result<Option<(StdListener, Identity)>> {
    fs::create_dir_all(folder(path))?;
    let listener = match listen_at(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !is_left_over(path)? {
                return Ok(None);
            }
            fs::remove_file(path)?;
            listen_at(path)?
        }
        listener => listener?,
    };
    let identity = identity(path).ok_or(io::ErrorKind::NotFound)?;
    Ok(Some((listener, identity)))
}

fn listen_at(path: &Path) -> io::Result<StdListener> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let listening = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The kernel gives the file the mode of the socket: it is private from the first moment on.
    let file = File::from(listening);
    file.set_permissions(Permissions::from_mode(PRIVATE))?;
    let listening = OwnedFd::from(file);
    bind(listening.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listening, Backlog::new(WAITING)?)?;
    Ok(StdListener::from(listening))
}

/// Returns whether the path has a socket on which nobody listens.
fn is_left_over(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let refused = connect(asking.as_raw_fd(), &UnixAddr::new(path)?) == Err(Errno::ECONNREFUSED);
    Ok(refused && fs::symlink_metadata(path)?.file_type().is_socket())
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::report::AgentReport;

    /// Longer than the pause before another try.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Connects until somebody answers.
    async fn read(path: &Path) -> AgentReport {
        let asked = async {
            loop {
                match aside(path.to_owned(), ask).await {
                    Ok(text) if !text.is_empty() => return serde_json::from_str(&text).unwrap(),
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(LIMIT, asked).await.unwrap()
    }

    fn ask(path: &Path) -> io::Result<String> {
        let mut text = String::new();
        std::os::unix::net::UnixStream::connect(path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[tokio::test]
    async fn who_connects_gets_the_report_and_the_socket_is_private_and_goes_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/subnet.sock");
        let first = ReportServer::start(path.clone(), Service::Report);
        assert_eq!(read(&path).await.schema, super::super::SCHEMA);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, PRIVATE);
        // Somebody who never reads delays nobody.
        let idle = std::os::unix::net::UnixStream::connect(&path).unwrap();
        read(&path).await;
        drop(idle);
        // Another agent leaves it alone, and has the path when the first has ended.
        let before = identity(&path);
        let second = ReportServer::start(path.clone(), Service::Report);
        read(&path).await;
        assert_eq!(identity(&path), before);
        drop(first);
        read(&path).await;
        // What is removed comes back.
        fs::remove_file(&path).unwrap();
        read(&path).await;
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_killed_agent_is_replaced_and_a_file_of_others_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (left, file) = (dir.path().join("left"), dir.path().join("file"));
        drop(StdListener::bind(&left).unwrap());
        assert!(left.exists());
        fs::write(&file, "text").unwrap();
        let (_left, _file) = (
            ReportServer::start(left.clone(), Service::Report),
            ReportServer::start(file.clone(), Service::Report),
        );
        read(&left).await;
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    }
}
