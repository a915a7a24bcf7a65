//! The calls about consumers: acknowledging, listing, deleting.

use super::Shared;
use super::arguments;
use super::batch::Batch;
use super::convert;
use super::error::{Ends, Error};
use super::page::ConsumerToken;
use crate::consumers::{Acknowledged, ConsumerName, Listed, lag};
use crate::log::{CursorError, resume_from};
use crate::pb;
use crate::position::Position;

pub(super) fn name(field: &'static str, name: &str) -> Result<ConsumerName, Error> {
    ConsumerName::new(name).map_err(|error| Error::field(field, error.to_string()))
}

pub(super) async fn acknowledge(
    shared: &Shared,
    request: pb::AcknowledgeRequest,
) -> Result<pb::AcknowledgeResponse, Error> {
    let name = name("consumer", &request.consumer)?;
    let position = Position::from_cursor(&request.cursor).map_err(|_| Error::CursorDamaged)?;
    match resume_from(&**shared.registry.log(), position) {
        // What it stands for was done, whether the log still keeps what follows or not.
        Ok(_) | Err(CursorError::Expired) => {}
        Err(CursorError::OtherEpoch) => return Err(Error::EpochChanged(Ends::of(&shared.registry))),
        Err(CursorError::Ahead) => return Err(Error::CursorAhead),
    }
    match shared.consumers.acknowledge(&name, position).await? {
        Acknowledged::Kept(kept) => Ok(pb::AcknowledgeResponse { cursor: kept.to_cursor() }),
        Acknowledged::NotSent => Err(Error::CursorNotSent),
        Acknowledged::Missing => Err(Error::NoSuchConsumer),
    }
}

pub(super) async fn list(
    shared: &Shared,
    request: pb::ListConsumersRequest,
) -> Result<pb::ListConsumersResponse, Error> {
    let size = arguments::page_size(request.page_size)?;
    let after = match request.page_token.as_str() {
        "" => String::new(),
        token => ConsumerToken::from_text(token).ok_or(Error::PageToken)?.after,
    };
    // One more tells whether there is another page.
    let listed = shared.consumers.list(after, size + 1).await?;
    let mut page = Batch::new(size);
    let (mut last, mut more) = (String::new(), false);
    for one in listed {
        let name = one.name.clone();
        if page.offer(consumer(shared, one).await).is_err() {
            more = true;
            break;
        }
        last = name;
        // A log on a disk is read for each.
        tokio::task::yield_now().await;
    }
    let next_page_token = if more { ConsumerToken { after: last }.to_text() } else { String::new() };
    Ok(pb::ListConsumersResponse { consumers: page.into_items(), next_page_token })
}

async fn consumer(shared: &Shared, listed: Listed) -> pb::Consumer {
    let Listed { name, kept, attached } = listed;
    let Some(position) = kept.position else { return pb::Consumer { name, attached, ..Default::default() } };
    let lag = lag(&**shared.registry.log(), position, shared.registry.clock().wall_nanos()).await;
    pb::Consumer {
        name,
        cursor: position.to_cursor(),
        attached,
        lag_events: lag.events,
        lag_time: lag.time.map(convert::duration),
        expired: lag.expired,
    }
}

pub(super) async fn delete(
    shared: &Shared,
    request: pb::DeleteConsumerRequest,
) -> Result<pb::DeleteConsumerResponse, Error> {
    let name = name("consumer", &request.consumer)?;
    let was_there = shared.consumers.delete(&name).await?;
    if was_there { Ok(pb::DeleteConsumerResponse {}) } else { Err(Error::NoSuchConsumer) }
}
