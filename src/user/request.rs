//! What `/app/unread/read` and `POST /api/unread/read` ask for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::destination::Destination;
use crate::persistence::{UnreadId, Which};

/// Ids of one request.
const MAX_IDS: usize = 10_000;

/// Which messages count as read from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub which: Which,
    /// The request as the user's sessions are told of it.
    pub request: Bytes,
}

impl ReadRequest {
    /// Reads `{"ids":["17"]}`, `{"upTo":"17","destination":"/user/queue/x"}` (without
    /// destination: of all), or `{"all":true}`.
    ///
    /// # Errors
    /// A sentence for the client that says what is wrong.
    pub fn parse(body: &[u8], user: &str) -> Result<Self, String> {
        const SHAPE: &str = r#"the body must be {"ids":["17"]}, {"upTo":"17"} or {"all":true}"#;
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| format!("{SHAPE}; it is no JSON: {error}\n"))?;
        let object = value.as_object().ok_or_else(|| format!("{SHAPE}\n"))?;
        if let Some(key) =
            object.keys().find(|key| !["ids", "upTo", "destination", "all"].contains(&&***key))
        {
            let key: String = key.chars().take(64).collect();
            return Err(format!("{SHAPE}; {key:?} is not known\n"));
        }
        let (which, request) = match (object.get("ids"), object.get("upTo"), object.get("all")) {
            (Some(ids), None, None) => ids_of(ids)?,
            (None, Some(id), None) => up_to(id, object.get("destination"), user)?,
            (None, None, Some(Value::Bool(true))) => (Which::All, json!({ "all": true })),
            _ => return Err(format!("{SHAPE}\n")),
        };
        Ok(Self { which, request: Bytes::from(request.to_string()) })
    }
}

fn ids_of(ids: &Value) -> Result<(Which, Value), String> {
    let list = ids.as_array().ok_or("\"ids\" must be a list of strings\n")?;
    if list.len() > MAX_IDS {
        return Err(format!("\"ids\" may have {MAX_IDS} entries\n"));
    }
    let ids = list.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
    let shown: Vec<String> = ids.iter().map(UnreadId::to_string).collect();
    Ok((Which::Ids(ids), json!({ "ids": shown })))
}

fn up_to(id: &Value, destination: Option<&Value>, user: &str) -> Result<(Which, Value), String> {
    let id = id_of(id)?;
    let Some(text) = destination else {
        let which = Which::UpTo { id, target: None };
        return Ok((which, json!({ "upTo": id.to_string() })));
    };
    let text = text.as_str().ok_or("\"destination\" must be a string\n")?;
    match Destination::for_subscribe(text, user) {
        Ok(Destination::User(to)) => {
            let request = json!({ "upTo": id.to_string(), "destination": to.to_string() });
            let target: Arc<str> = to.target;
            Ok((Which::UpTo { id, target: Some(target) }, request))
        }
        _ => Err("\"destination\" must be one's own, like \"/user/queue/x\"\n".into()),
    }
}

fn id_of(value: &Value) -> Result<UnreadId, String> {
    let text = value.as_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| "an unread id is a string of digits, like \"17\"\n".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let target = Some(Arc::from("queue/x"));
        let good = [
            (r#"{"ids":["17","3"]}"#, Which::Ids(vec![17, 3]), r#"{"ids":["17","3"]}"#),
            (r#"{"upTo":"17"}"#, Which::UpTo { id: 17, target: None }, r#"{"upTo":"17"}"#),
            (
                r#"{ "upTo": "17", "destination": "/user/queue/x" }"#,
                Which::UpTo { id: 17, target },
                r#"{"destination":"/user/queue/x","upTo":"17"}"#,
            ),
            (r#"{"all":true}"#, Which::All, r#"{"all":true}"#),
        ];
        for (body, which, request) in good {
            let parsed = ReadRequest::parse(body.as_bytes(), "alice").unwrap();
            assert_eq!(parsed, ReadRequest { which, request: Bytes::from(request) }, "{body}");
        }
        for body in [
            "",
            "[]",
            "{}",
            r#"{"all":false}"#,
            r#"{"ids":"17"}"#,
            r#"{"ids":[17]}"#,
            r#"{"ids":["-1"]}"#,
            r#"{"ids":["1"],"all":true}"#,
            r#"{"upTo":"1","destination":"/user/bob/queue/x"}"#,
            r#"{"upTo":"99999999999999999999"}"#,
            r#"{"al":true}"#,
        ] {
            assert!(ReadRequest::parse(body.as_bytes(), "alice").is_err(), "{body}");
        }
    }
}
