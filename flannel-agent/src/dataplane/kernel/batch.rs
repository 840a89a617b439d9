//! Many requests in one datagram: the kernel works through them in order, and one system call pays for all.

use std::io;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use futures::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::entry::Job;
use super::request::Request;

/// Jobs in one datagram. Answers wait in the socket's receive buffer until all jobs are done: 64 of them (under
/// 1 KiB each as the kernel counts) fit into the default of 208 KiB. The runtime's thread waits as well, up to
/// 12 ms: with 10 000 routes on a device the kernel needs 0.2 ms to add another.
const DATAGRAM: usize = 64;

/// Far longer than any datagram takes; reached only when the kernel had no memory for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A netlink socket of its own for writing, because it delivers acknowledgements, which `rtnetlink::Handle`
/// would take for errors.
#[derive(Debug)]
pub(super) struct Batch {
    socket: ConnectionHandle<Request>,
}

impl Batch {
    pub(super) fn open() -> Result<Self> {
        let (mut connection, socket, _) = rtnetlink::proto::new_connection(NETLINK_ROUTE)
            .context("opening a netlink socket for writing")?;
        connection.set_forward_ack(true);
        // Refusals without an echo of the request are as small as acknowledgements.
        connection.socket_mut().socket_mut().set_cap_ack(true).context("setting NETLINK_CAP_ACK")?;
        tokio::spawn(connection);
        Ok(Self { socket })
    }

    /// The same socket, for requests of other kinds.
    pub(super) const fn socket(&self) -> &ConnectionHandle<Request> {
        &self.socket
    }

    /// Does all jobs in order and returns what went wrong, each with the object's name.
    pub(super) async fn run(&self, device: u32, jobs: &[Job]) -> Vec<Error> {
        let mut errors = Vec::new();
        for jobs in jobs.chunks(DATAGRAM) {
            match tokio::time::timeout(PATIENCE, self.send(device, jobs)).await {
                Ok(Ok(refusals)) => errors.extend(refusals),
                Ok(Err(error)) => errors.push(error),
                Err(_) => errors.push(anyhow!("the kernel did not answer {} requests", jobs.len())),
            }
        }
        errors
    }

    /// One datagram. Each request is answered once and in order, so answers and jobs go in pairs.
    async fn send(&self, device: u32, jobs: &[Job]) -> Result<Vec<Error>> {
        let messages = jobs.iter().map(|job| job.message(device)).collect::<Vec<_>>();
        let answers = self.socket.request_batch(messages, SocketAddr::new(0, 0))?.collect::<Vec<_>>().await;
        if answers.len() < jobs.len() {
            return Err(anyhow!("the kernel answered {} of {} requests", answers.len(), jobs.len()));
        }
        Ok(jobs.iter().zip(&answers).filter_map(|(job, answer)| refusal(*job, answer)).collect())
    }
}

fn refusal(job: Job, answer: &NetlinkMessage<Request>) -> Option<Error> {
    let NetlinkPayload::Error(answer) = &answer.payload else {
        return Some(anyhow!("unexpected answer {:?}", answer.payload).context(job.to_string()));
    };
    let errno = -answer.raw_code();
    let refused = errno != 0 && !job.tolerates(errno);
    refused.then(|| Error::new(io::Error::from_raw_os_error(errno)).context(job.to_string()))
}
