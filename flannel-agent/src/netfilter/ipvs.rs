//! The kernel's load balancer, as `/proc/net/ip_vs` lists it (net/netfilter/ipvs/ip_vs_ctl.c). Pure but for [`read`].

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Reads the list of this network namespace. It is empty if the kernel has no load balancer.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read() -> io::Result<String> {
    match fs::read_to_string("/proc/self/net/ip_vs") {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Returns where new connections to a service may go; `None` if there is no such service. `protocol`: `TCP` or `UDP`.
pub(crate) fn backends(listed: &str, protocol: &str, service: SocketAddr) -> Option<Vec<SocketAddr>> {
    let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_service = |words: &Vec<&str>| match words[..] {
        [of, address, ..] => of == protocol && end(address) == Some(service),
        _ => false,
    };
    lines.find(is_service)?;
    let of_service = lines.take_while(|words| words.first() == Some(&"->"));
    let backend = |words: Vec<&str>| match words[..] {
        // Others get the packets without another address, or no new connections.
        [_, address, "Masq", weight, ..] if weight != "0" => end(address),
        _ => None,
    };
    Some(of_service.filter_map(backend).collect())
}

/// Parses `0A600001:0050` and `[fd96:0000:0000:0000:0000:0000:0000:0001]:0050`.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let ip = match address.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse().ok()?,
        None => IpAddr::from(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr 
  -> 0A050202:1F90      Masq    1      0          0         
  -> 0A050302:1F90      Masq    0      1          0         
  -> 0A050402:1F90      Route   1      0          0         
UDP  0A60000A:0050 rr 
FWM  00000001 rr 
  -> 0A050502:1F90      Masq    1      0          0         
TCP  [fd96:0000:0000:0000:0000:0000:0000:000a]:0050 rr persistent 10800
  -> [fd44:0000:0000:0001:0000:0000:0000:0002]:1F90      Masq    1      0          0         
  -> [fd44:0000:0000:0002:0000:0000:0000:0002]:1F90      Masq    2      0          0         
";

    #[test]
    fn backends_of_a_service_are_those_that_get_new_connections() {
        let of = |protocol, service: &str| {
            let backends = backends(LISTED, protocol, service.parse().unwrap())?;
            Some(backends.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of("TCP", "10.96.0.10:80"), Some(vec!["10.5.2.2:8080".to_owned()]));
        assert_eq!(of("UDP", "10.96.0.10:80"), Some(vec![]));
        assert_eq!(of("TCP", "10.96.0.10:81"), None);
        let v6 = ["[fd44:0:0:1::2]:8080", "[fd44:0:0:2::2]:8080"].map(str::to_owned).to_vec();
        assert_eq!(of("TCP", "[fd96::a]:80"), Some(v6));
        assert_eq!(backends("", "TCP", "10.96.0.10:80".parse().unwrap()), None);
    }
}
