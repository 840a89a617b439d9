//! Messages to and from the kernel: those of `rtnetlink`, and those of nexthop objects, which it does not have.

use rtnetlink::packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// include/uapi/linux/rtnetlink.h
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

/// One message. Those of nexthop objects are bytes: `struct nhmsg` and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// About anything else.
    Route(RouteNetlinkMessage),
    /// Makes a nexthop object, or says that there is one.
    NewNexthop(Vec<u8>),
    /// Removes a nexthop object, or says that it is removed.
    DelNexthop(Vec<u8>),
    /// Asks for nexthop objects.
    GetNexthop(Vec<u8>),
}

impl NetlinkSerializable for Message {
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

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        match header.message_type {
            RTM_NEWNEXTHOP => Ok(Self::NewNexthop(payload.to_vec())),
            RTM_DELNEXTHOP => Ok(Self::DelNexthop(payload.to_vec())),
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        }
    }
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(request: Message) -> Self {
        Self::InnerMessage(request)
    }
}
