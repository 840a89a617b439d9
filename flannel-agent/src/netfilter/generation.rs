//! The number of the kernel's nftables rule set, which each change raises (include/uapi/linux/netfilter/nf_tables.h).

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

use crate::netlink::is_loaded;

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_GETGEN` and `NFT_MSG_NEWGEN`.
const GET: u16 = 10 << 8 | 16;
const NEW: u16 = 10 << 8 | 15;

/// Place of the number in the answer, after the headers of the message and of its first attribute (`NFTA_GEN_ID`).
const NUMBER: usize = 16 + 4 + 4;

/// Asks for the number.
#[derive(Default)]
pub(super) struct Generation(Option<Socket>);

impl Generation {
    /// Returns the number in this network namespace; `None` if the kernel has no nftables.
    pub(super) fn get(&mut self) -> Option<u32> {
        let number = self.ask();
        if number.is_err() {
            self.0 = None;
        }
        number.ok()
    }

    fn ask(&mut self) -> io::Result<u32> {
        let socket = match &mut self.0 {
            Some(socket) => socket,
            None if is_loaded(NETLINK_NETFILTER)? => {
                let mut socket = Socket::new(NETLINK_NETFILTER)?;
                socket.bind_auto()?;
                self.0.insert(socket)
            }
            None => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut request = [0; 20];
        request[..4].copy_from_slice(&20_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GET.to_ne_bytes());
        request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let kind = answer.get(4..6).map(|kind| kind == NEW.to_ne_bytes());
        let number = answer.get(NUMBER..NUMBER + 4).and_then(|bytes| bytes.try_into().ok());
        number.filter(|_| kind == Some(true)).map(u32::from_be_bytes).ok_or(io::ErrorKind::InvalidData.into())
    }
}
