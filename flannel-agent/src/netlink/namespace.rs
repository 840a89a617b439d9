//! Network namespaces, as this one numbers them.

use futures::StreamExt as _;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::{Error, Handle};

/// Returns the numbers of the namespaces that have one here: those that an interface was moved to, or has its other end in.
///
/// # Errors
/// The kernel does not answer.
pub async fn known(handle: &Handle) -> Result<Vec<i32>, Error> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(NsidMessage::default()));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.clone().request(message)?;
    let mut numbers = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                numbers.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                    NsidAttribute::Id(number) => Some(*number),
                    _ => None,
                }));
            }
            NetlinkPayload::Error(error) => return Err(Error::NetlinkError(error)),
            _ => {}
        }
    }
    Ok(numbers)
}
