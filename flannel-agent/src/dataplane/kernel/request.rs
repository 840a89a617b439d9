//! Requests to the kernel: those of `rtnetlink`, and those of nexthop objects, which it does not have.

use rtnetlink::packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// include/uapi/linux/rtnetlink.h
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

/// One request. Those of nexthop objects are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Route(RouteNetlinkMessage),
    NewNexthop(Vec<u8>),
    DelNexthop(Vec<u8>),
    GetNexthop(Vec<u8>),
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::NewNexthop(_) => RTM_NEWNEXTHOP,
            Self::DelNexthop(_) => RTM_DELNEXTHOP,
            Self::GetNexthop(_) => RTM_GETNEXTHOP,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => message.buffer_len(),
            Self::NewNexthop(bytes) | Self::DelNexthop(bytes) | Self::GetNexthop(bytes) => bytes.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::NewNexthop(bytes) | Self::DelNexthop(bytes) | Self::GetNexthop(bytes) => {
                buffer.copy_from_slice(bytes);
            }
        }
    }
}

impl NetlinkDeserializable for Request {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        match header.message_type {
            RTM_NEWNEXTHOP => Ok(Self::NewNexthop(payload.to_vec())),
            RTM_DELNEXTHOP => Ok(Self::DelNexthop(payload.to_vec())),
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        }
    }
}

impl From<RouteNetlinkMessage> for Request {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

impl From<Request> for NetlinkPayload<Request> {
    fn from(request: Request) -> Self {
        Self::InnerMessage(request)
    }
}
