//! Which pages may open a session: the Origin header, compared whole.

use http::{HeaderMap, Uri, header};

/// Which origins an endpoint takes beside its own.
#[derive(Clone, Debug, Default)]
pub struct OriginRule {
    /// `https://app.example.org`, in lower case; `*` is any.
    pub allowed: Vec<String>,
    /// Any origin whose host is a loopback one.
    pub loopback: bool,
}

/// What the server knows of its own origin.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// `https://app.example.org` where `public_url` is set.
    pub public: Option<String>,
    /// The listener is for this machine only: then a Host that is a name may be a trick of
    /// somebody's name server, and is nobody's own origin.
    pub is_local: bool,
}

/// What the Origin header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No browser.
    Absent,
    Allowed,
    Denied,
    /// Two of them, or no text.
    Malformed,
}

impl OriginRule {
    /// Whether pages of any origin may come.
    pub(super) fn is_any(&self) -> bool {
        self.allowed.iter().any(|allowed| allowed == "*")
    }
}

impl Origins {
    /// Judges a request. `is_proxied`: `X-Forwarded-Proto` and `-Host` are believed.
    pub(super) fn judge(
        &self,
        rule: &OriginRule,
        headers: &HeaderMap,
        is_proxied: bool,
    ) -> Verdict {
        let mut origins = headers.get_all(header::ORIGIN).into_iter();
        let Some(origin) = origins.next() else { return Verdict::Absent };
        let Ok(origin) = origin.to_str() else { return Verdict::Malformed };
        if origins.next().is_some() || origin.contains(',') {
            return Verdict::Malformed;
        }
        if rule.is_any() {
            return Verdict::Allowed;
        }
        let Some(origin) = normal(origin) else { return Verdict::Denied };
        let is_allowed = rule.allowed.contains(&origin)
            || self.public.as_ref() == Some(&origin)
            || self.own(headers, is_proxied).as_ref() == Some(&origin)
            || rule.loopback && is_loopback(&origin);
        if is_allowed { Verdict::Allowed } else { Verdict::Denied }
    }
}

impl Origins {
    /// The server's own origin as the client addressed it.
    fn own(&self, headers: &HeaderMap, is_proxied: bool) -> Option<String> {
        let own = own(headers, is_proxied)?;
        (is_proxied || !self.is_local || is_address(&own)).then_some(own)
    }
}

/// Scheme, host and port in lower case, the scheme's own port left out; none for what is no
/// plain origin (userinfo, a path, `null`).
pub(super) fn normal(origin: &str) -> Option<String> {
    let (scheme, rest) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    if rest.is_empty() || rest.contains(['/', '@', '?', '#', '\\']) {
        return None;
    }
    let uri: Uri = origin.parse().ok()?;
    uri.host()?;
    let rest = rest.to_ascii_lowercase();
    let rest = rest.strip_suffix(default).unwrap_or(&rest);
    Some(format!("{scheme}://{rest}"))
}

/// The server's own origin as the client addressed it.
fn own(headers: &HeaderMap, is_proxied: bool) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let forwarded = |name| if is_proxied { text(name) } else { None };
    let scheme = forwarded("x-forwarded-proto").unwrap_or("http");
    let host = forwarded("x-forwarded-host").or_else(|| text("host"))?;
    normal(&format!("{scheme}://{host}"))
}

/// Whether the host is `localhost` or an address, which no name server can lend to another site.
fn is_address(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
}

fn is_loopback(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_matches_only() {
        let origins = Origins { public: Some("https://chat.example.com".into()), is_local: false };
        let rule = OriginRule { allowed: vec!["https://app.example.com".into()], loopback: false };
        let cases = [
            ("https://app.example.com", Verdict::Allowed),
            ("https://APP.example.com:443", Verdict::Allowed),
            ("https://chat.example.com", Verdict::Allowed),
            ("http://relay.test:8080", Verdict::Allowed),
            ("https://relay.test:8080", Verdict::Denied),
            ("http://relay.test", Verdict::Denied),
            ("http://app.example.com", Verdict::Denied),
            ("https://app.example.com:8443", Verdict::Denied),
            ("https://app.example.com.evil.net", Verdict::Denied),
            ("https://evil.net/app.example.com", Verdict::Denied),
            ("https://user@app.example.com", Verdict::Denied),
            ("https://app.example.com.", Verdict::Denied),
            ("https://app.example.com/", Verdict::Denied),
            ("null", Verdict::Denied),
            ("http://127.0.0.1:3000", Verdict::Denied),
            ("https://app.example.com, https://evil.net", Verdict::Malformed),
        ];
        for (origin, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("host", "relay.test:8080".parse().unwrap());
            headers.insert("x-forwarded-proto", "https".parse().unwrap());
            headers.insert("origin", origin.parse().unwrap());
            assert_eq!(origins.judge(&rule, &headers, false), expected, "{origin}");
        }
        assert_eq!(origins.judge(&rule, &HeaderMap::new(), false), Verdict::Absent);
    }

    #[test]
    fn a_name_that_points_here_is_no_own_origin_of_a_local_listener() {
        let origins = Origins { public: None, is_local: true };
        for (host, expected) in [
            ("evil.example", Verdict::Denied),
            ("127.0.0.1:8080", Verdict::Allowed),
            ("localhost:8080", Verdict::Allowed),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", host.parse().unwrap());
            headers.insert("origin", format!("http://{host}").parse().unwrap());
            let verdict = origins.judge(&OriginRule::default(), &headers, false);
            assert_eq!(verdict, expected, "{host}");
        }
    }

    #[test]
    fn loopback_and_proxies() {
        let rule = OriginRule { allowed: Vec::new(), loopback: true };
        for (origin, expected) in [
            ("http://127.0.0.1:3000", Verdict::Allowed),
            ("http://[::1]:3000", Verdict::Allowed),
            ("http://localhost:1", Verdict::Allowed),
            ("http://localhost.evil.net", Verdict::Denied),
            ("https://site.example", Verdict::Allowed),
            ("http://site.example", Verdict::Denied),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", "10.0.0.7:8080".parse().unwrap());
            headers.insert("x-forwarded-proto", "https".parse().unwrap());
            headers.insert("x-forwarded-host", "site.example".parse().unwrap());
            headers.insert("origin", origin.parse().unwrap());
            assert_eq!(Origins::default().judge(&rule, &headers, true), expected, "{origin}");
        }
    }
}
