//! Many requests in one datagram: the kernel handles them in order, and one system call sends them all.

use std::io;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use futures::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::job::Job;
use crate::netlink::message::Message;

/// Jobs in one datagram. Their answers wait in the socket's receive buffer: 64 of them (under 1 KiB each as
/// the kernel counts) fit into the default of 208 KiB. The runtime's thread waits too, up to 12 ms: with 10
/// 000 routes on a device the kernel needs 0.2 ms to add another.
const DATAGRAM: usize = 64;

/// Time limit for a datagram. It is reached only if the kernel had no memory for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A netlink socket for writing. It delivers acknowledgements, which `rtnetlink::Handle` would take for errors.
#[derive(Debug)]
pub(super) struct BatchSocket {
    socket: ConnectionHandle<Message>,
    port: u32,
}

impl BatchSocket {
    pub(super) fn open() -> Result<Self> {
        let (mut connection, socket, _) = rtnetlink::proto::new_connection(NETLINK_ROUTE)
            .context("opening a netlink socket for writing")?;
        connection.set_forward_ack(true);
        // Refusals without an echo of the request are as small as acknowledgements.
        connection.socket_mut().socket_mut().set_cap_ack(true).context("setting NETLINK_CAP_ACK")?;
        let address = connection.socket_mut().socket_mut().bind_auto().context("binding a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { socket, port: address.port_number() })
    }

    /// Returns the netlink port of this socket, which identifies it in the kernel.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Returns the socket for other requests.
    pub(super) const fn socket(&self) -> &ConnectionHandle<Message> {
        &self.socket
    }

    /// Does all jobs in order. Returns the failures, each with the name of its entry.
    pub(super) async fn run(&self, device: u32, jobs: &[Job]) -> Vec<Error> {
        let mut errors = Vec::new();
        for jobs in jobs.chunks(DATAGRAM) {
            match tokio::time::timeout(ANSWER_TIMEOUT, self.send(device, jobs)).await {
                Ok(Ok(refusals)) => errors.extend(refusals),
                Ok(Err(error)) => errors.push(error),
                Err(_) => errors.push(anyhow!("the kernel did not answer {} requests", jobs.len())),
            }
        }
        errors
    }

    /// Sends one datagram. Each request is answered once and in order, so the nth answer belongs to the nth
    /// job.
    async fn send(&self, device: u32, jobs: &[Job]) -> Result<Vec<Error>> {
        let messages = jobs.iter().map(|job| job.message(device)).collect::<Vec<_>>();
        let answers = self.socket.request_batch(messages, SocketAddr::new(0, 0))?.collect::<Vec<_>>().await;
        if answers.len() < jobs.len() {
            return Err(anyhow!("the kernel answered {} of {} requests", answers.len(), jobs.len()));
        }
        Ok(jobs.iter().zip(&answers).filter_map(|(job, answer)| refusal(*job, answer)).collect())
    }
}

fn refusal(job: Job, answer: &NetlinkMessage<Message>) -> Option<Error> {
    let NetlinkPayload::Error(answer) = &answer.payload else {
        return Some(anyhow!("unexpected answer {:?}", answer.payload).context(job.to_string()));
    };
    let errno = -answer.raw_code();
    let refused = errno != 0 && !job.tolerates(errno);
    refused.then(|| Error::new(io::Error::from_raw_os_error(errno)).context(job.to_string()))
}
