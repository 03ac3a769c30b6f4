//! The command that made a run, as a report may show it.

/// Flags whose values are secrets.
const SECRET: [&str; 3] = ["--passcode", "--header", "--connect-header"];
const HIDDEN: &str = "***";

/// The words of a command line without secrets, quoted where a shell needs it. `url` is the URL
/// as it was given, and as it may be shown.
pub(crate) fn shown(words: impl Iterator<Item = String>, url: (&str, &str)) -> String {
    let mut out = vec!["stomp-conformance".to_owned()];
    let mut secret: Option<String> = None;
    for word in words.skip(1) {
        let shown = if let Some(flag) = &secret {
            hide(flag, &word)
        } else if word == url.0 {
            url.1.to_owned()
        } else {
            match word.split_once('=') {
                Some((flag, value)) if SECRET.contains(&flag) => {
                    format!("{flag}={}", hide(flag, value))
                }
                _ => word.clone(),
            }
        };
        let is_flag = secret.is_none() && SECRET.contains(&word.as_str());
        secret = is_flag.then_some(word);
        out.push(quoted(&shown));
    }
    out.join(" ")
}

/// A header's name may be seen.
fn hide(flag: &str, value: &str) -> String {
    let name = value.split_once(':').filter(|_| flag != "--passcode");
    name.map_or(HIDDEN.to_owned(), |(name, _)| format!("{name}:{HIDDEN}"))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let url = ("ws://a/ws?token=x", "ws://a/ws?***");
        let cases: [(&[&str], &str); 6] = [
            (&[url.0, "--jobs", "3"], "'ws://a/ws?***' --jobs 3"),
            (&["--passcode", "pw", url.0], "--passcode '***' 'ws://a/ws?***'"),
            (&["--passcode=pw"], "'--passcode=***'"),
            (&["--header", "Cookie: a=b", "--level", "may"], "--header 'Cookie:***' --level may"),
            (&["--connect-header=token:b"], "'--connect-header=token:***'"),
            (&["--only", "a*/1.2", "--login", "it's"], r"--only 'a*/1.2' --login 'it'\''s'"),
        ];
        for (words, expected) in cases {
            let words = std::iter::once("/usr/bin/stomp-conformance").chain(words.iter().copied());
            let expected = format!("stomp-conformance {expected}");
            assert_eq!(shown(words.map(str::to_owned), url), expected);
        }
        // A passcode with a colon shows nothing of itself.
        let words = ["x", "--passcode", "a:b"].map(str::to_owned);
        assert_eq!(shown(words.into_iter(), url), "stomp-conformance --passcode '***'");
    }
}
