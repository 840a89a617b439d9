//! The number of the kernel's nftables rule set, which each change raises (include/uapi/linux/netfilter/nf_tables.h).

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

use crate::netlink::is_loaded;

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_GETGEN` and `NFT_MSG_NEWGEN`.
const GET: u16 = 10 << 8 | 16;
const NEW: u16 = 10 << 8 | 15;

/// `NLMSG_ERROR`, and the place of its number.
const REFUSED: u16 = 2;
const ERROR: usize = 16;

/// Place of the number in the answer, after the headers of the message and of its first attribute (`NFTA_GEN_ID`).
const NUMBER: usize = 16 + 4 + 4;

/// Asks for the number.
#[derive(Debug, Default)]
pub(super) struct Generation(Option<Socket>);

impl Generation {
    /// Returns the number in this network namespace; `None` if the kernel has no nftables.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn get(&mut self) -> io::Result<Option<u32>> {
        let number = self.ask();
        if number.is_err() {
            self.0 = None;
        }
        number
    }

    fn ask(&mut self) -> io::Result<Option<u32>> {
        let socket = match &mut self.0 {
            Some(socket) => socket,
            None if is_loaded(NETLINK_NETFILTER)? => {
                let mut socket = Socket::new(NETLINK_NETFILTER)?;
                socket.bind_auto()?;
                self.0.insert(socket)
            }
            None => return Ok(None),
        };
        let mut request = [0; 20];
        request[..4].copy_from_slice(&20_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GET.to_ne_bytes());
        request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        read(&answer)
    }
}

/// Reads an answer. EINVAL: the kernel has nfnetlink, but not nftables.
fn read(answer: &[u8]) -> io::Result<Option<u32>> {
    let four = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, four(ERROR), four(NUMBER)) {
        (Some(NEW), _, Some(number)) => Ok(Some(u32::from_be_bytes(number))),
        (Some(REFUSED), Some(error), _) => match -i32::from_ne_bytes(error) {
            libc::EINVAL => Ok(None),
            error => Err(io::Error::from_raw_os_error(error)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_from_a_kernel_without_nftables_and_from_a_refusal() {
        let answer = |kind: u16, content: &[u8]| {
            let head = [&52_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
            read(&[&head, content].concat()).map_err(|error| error.raw_os_error())
        };
        let refused = |errno: i32| answer(REFUSED, &(-errno).to_ne_bytes());
        assert_eq!(answer(NEW, &[0, 0, 0, 2, 0, 8, 0, 1, 0, 0, 1, 2]), Ok(Some(258)));
        assert_eq!(refused(libc::EINVAL), Ok(None));
        assert_eq!(refused(libc::EPERM), Err(Some(libc::EPERM)));
        assert_eq!(answer(NEW, &[0, 0]), Err(None));
        assert_eq!(answer(7, &[0; 12]), Err(None));
    }
}
