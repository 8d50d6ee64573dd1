//! Pages over sorted keys. A token names the last key given, so pages stay right while items come and go.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The token was not one of ours; the caller answers with its service's own error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid")]
pub struct BadToken;

#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `None`: that was all.
    pub next_token: Option<String>,
}

/// Up to `limit` of `items`, which come sorted by `key`, after the place `token` names.
pub fn paginate<T>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> &str,
    token: Option<&str>,
    limit: usize,
) -> Result<Page<T>, BadToken> {
    let after = token.map(decode).transpose()?;
    let mut rest =
        items.into_iter().skip_while(|item| after.as_deref().is_some_and(|after| key(item) <= after));
    let items: Vec<T> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next_token =
        items.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(format!("1:{}", key(last))));
    Ok(Page { items, next_token })
}

fn decode(token: &str) -> Result<String, BadToken> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
    let text = String::from_utf8(bytes).map_err(|_| BadToken)?;
    text.strip_prefix("1:").map(str::to_owned).ok_or(BadToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once() {
        let all: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
        let (mut seen, mut token) = (Vec::new(), None);
        loop {
            let page = paginate(all.clone(), |item| item, token.as_deref(), 10).unwrap();
            seen.extend(page.items);
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn no_token_when_the_last_page_is_full() {
        let page = paginate(["a", "b"], |item| item, None, 2).unwrap();
        assert_eq!(page.next_token, None);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "!", "bm90IG91cnM"] {
            assert_eq!(paginate(["a"], |item| item, Some(token), 2), Err(BadToken));
        }
    }
}
