//! The header by which whoever sends a request takes its costs (`x-amz-request-payer`).
//!
//! A bucket whose owner lets requesters pay refuses each request without the header. One request of a rollback that lacked it would leave
//! an object behind. So no request sets the header itself: the client adds it to all of them, before they are signed.
#![forbid(unsafe_code)]

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;

/// Adds the header.
#[derive(Debug)]
pub struct RequesterPays;

impl Intercept for RequesterPays {
    fn name(&self) -> &'static str {
        "RequesterPays"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().try_insert("x-amz-request-payer", "requester")?;
        Ok(())
    }
}
