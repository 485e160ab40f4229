//! Asking members over their REST API.

use std::time::Duration;

use serde_json::Value;

use crate::config::types::Secret;
use crate::ha::view::Member;
use crate::http::client::Client;

/// How long something may take that a member answers at once.
pub const PROMPT: Duration = Duration::from_secs(15);

/// What a member said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Body.
    pub text: String,
}

/// The way to all members.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    /// User and password.
    pub auth: Option<(String, Secret)>,
    /// Calls them.
    pub client: Client,
}

impl Rest {
    /// One request; the endpoint is the path without a slash, empty for the status document.
    ///
    /// # Errors
    /// A sentence: the member has no address, cannot be reached or does not answer in time.
    pub async fn call(
        &self,
        member: &Member,
        method: &str,
        endpoint: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<Answer, String> {
        let base = member.api_url.as_deref().ok_or("it publishes no address of its REST API")?;
        let url = endpoint_url(base, endpoint);
        let auth = self.auth.as_ref().map(|(user, password)| (user.as_str(), password.0.as_str()));
        let answer = self.client.call(method, &url, body, auth, deadline).await;
        let (code, bytes) = answer.map_err(|error| error.to_string())?;
        Ok(Answer { code, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

fn endpoint_url(base: &str, endpoint: &str) -> String {
    if endpoint.is_empty() {
        return base.to_owned();
    }
    let host_at = base.find("://").map_or(0, |at| at + 3);
    let path_at = base[host_at..].find(['/', '?', '#']).map_or(base.len(), |at| host_at + at);
    format!("{}/{endpoint}", &base[..path_at])
}

#[cfg(test)]
mod tests {
    use super::endpoint_url;

    #[test]
    fn endpoints_are_beside_the_status_document() {
        assert_eq!(endpoint_url("http://10.0.0.1:8008/patroni", "restart"), "http://10.0.0.1:8008/restart");
        assert_eq!(endpoint_url("https://[::1]:8008", "config"), "https://[::1]:8008/config");
        assert_eq!(endpoint_url("http://h:1/patroni", ""), "http://h:1/patroni");
    }
}
