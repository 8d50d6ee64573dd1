//! Redirect actions: `#{protocol}`, `#{host}`, `#{port}`, `#{path}`, `#{query}` stand for the request's own.

/// A redirect as its rule has it; each part may hold placeholders.
#[derive(Clone, Debug)]
pub struct Redirect {
    pub protocol: String,
    pub host: String,
    pub port: String,
    pub path: String,
    pub query: String,
    pub status: u16,
}

/// What the placeholders stand for.
pub struct RedirectSource<'a> {
    /// `HTTP`, `HTTPS`
    pub protocol: &'a str,
    /// Without its port.
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub query: &'a str,
}

impl Redirect {
    /// The `Location`: always with its port, as ALB has it.
    pub fn location(&self, source: &RedirectSource<'_>) -> String {
        let mut out = String::with_capacity(64 + source.path.len() + source.query.len());
        let protocol = source.protocol.to_ascii_lowercase();
        expand(&self.protocol.to_ascii_lowercase(), source, &protocol, &mut out);
        out.push_str("://");
        expand(&self.host, source, &protocol, &mut out);
        out.push(':');
        expand(&self.port, source, &protocol, &mut out);
        if !self.path.starts_with('/') {
            out.push('/');
        }
        expand(&self.path, source, &protocol, &mut out);
        let before = out.len();
        out.push('?');
        expand(&self.query, source, &protocol, &mut out);
        if out.len() == before + 1 {
            out.pop();
        }
        out
    }
}

fn expand(template: &str, source: &RedirectSource<'_>, protocol: &str, out: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find("#{") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest.find('}') else { break };
        match &rest[2..end] {
            "protocol" => out.push_str(protocol),
            "host" => out.push_str(source.host),
            "port" => out.push_str(&source.port.to_string()),
            // Its leading slash is the template's: `/#{path}`.
            "path" => out.push_str(source.path.strip_prefix('/').unwrap_or(source.path)),
            "query" => out.push_str(source.query),
            _ => out.push_str(&rest[..=end]),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redirect(protocol: &str, host: &str, port: &str, path: &str, query: &str) -> String {
        let text = str::to_owned;
        let source =
            RedirectSource { protocol: "HTTP", host: "example.com", port: 80, path: "/a/b", query: "x=1&y" };
        Redirect {
            protocol: text(protocol),
            host: text(host),
            port: text(port),
            path: text(path),
            query: text(query),
            status: 301,
        }
        .location(&source)
    }

    #[test]
    fn placeholders_are_the_request_s_own() {
        assert_eq!(
            redirect("HTTPS", "#{host}", "443", "/#{path}", "#{query}"),
            "https://example.com:443/a/b?x=1&y"
        );
        assert_eq!(
            redirect("#{protocol}", "www.#{host}", "#{port}", "/new/#{path}", ""),
            "http://www.example.com:80/new/a/b"
        );
        assert_eq!(
            redirect("HTTPS", "h", "443", "/#{path}/#{nothing}", "v=2&#{query}"),
            "https://h:443/a/b/#{nothing}?v=2&x=1&y"
        );
    }

    proptest! {
        #[test]
        fn any_template_is_expanded(path in "[/#{}a-z]{0,30}") {
            prop_assert!(redirect("HTTPS", "h", "443", &path, &path).starts_with("https://h:443/"));
        }
    }
}
