use crate::support::*;

/// A line as ELB's readers split it: by spaces, but not inside quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
    }
    fields
}

#[tokio::test]
async fn a_line_has_the_fields_of_the_user_guide() {
    let backend = Backend::named("hello").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let request = "POST /a?b=c HTTP/1.1\r\nHost: web.example.com\r\nUser-Agent: an \"agent\"\x01\r\nX-Amzn-Trace-Id: Root=1-0-abc\r\nContent-Length: 3\r\n\r\nabc";
    let request = request.replace('\x01', "\\");
    let reply = balancer.ask(&request).await;
    assert_eq!(reply.status, 200);
    let line = balancer.log(1).await.remove(0);
    let fields = fields(&line);
    assert_eq!(fields.len(), 33, "{line}");
    let is = |at: usize, wanted: &str| assert_eq!(fields[at], wanted, "field {at} of {line}");
    let timestamp =
        |text: &str| assert!(text.len() == 27 && text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    let seconds = |text: &str| assert!(text.len() >= 5 && text.parse::<f64>().unwrap() >= 0.0, "{text}");
    is(0, "http");
    timestamp(&fields[1]);
    is(2, "app/web/50dc6c495c0c9188");
    assert!(fields[3].starts_with("127.0.0.1:"));
    is(4, &backend.address.to_string());
    fields[5..8].iter().for_each(|time| seconds(time));
    is(8, "200");
    is(9, "200");
    is(10, &request.len().to_string());
    assert!(fields[11].parse::<u64>().unwrap() > 5);
    is(12, &format!("POST http://web.example.com:{}/a?b=c HTTP/1.1", balancer.address.port()));
    is(13, "an \\x22agent\\x22\\x5C");
    is(14, "-");
    is(15, "-");
    is(16, GROUP);
    assert!(fields[17].starts_with("Self=1-") && fields[17].ends_with(";Root=1-0-abc"), "{line}");
    is(18, "-");
    is(19, "-");
    is(20, "0");
    timestamp(&fields[21]);
    is(22, "forward");
    is(23, "-");
    is(24, "-");
    is(25, &backend.address.to_string());
    is(26, "200");
    is(27, "-");
    is(28, "-");
    assert!(fields[29].starts_with("TID_") && fields[29].len() == 36);
    fields[30..].iter().for_each(|field| assert_eq!(field, "-"));
}

#[tokio::test]
async fn metrics_are_counted_for_balancer_and_group() {
    let backend = Backend::new(|request| match request.path() {
        "/4" => Act::Send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/5" => Act::Send(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => ok("fine"),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |assignment| {
        assignment.listeners[0].rules.push(rule(1, vec![path("/fixed")], fixed(200, "here")));
    });
    for path in ["/", "/4", "/5", "/fixed"] {
        balancer.get(path).await;
    }
    balancer.log(4).await;
    let metrics = balancer.edge.metrics.drain();
    for arn in [None, Some(GROUP)] {
        let sum = |name: &str| {
            let found = metrics.iter().find(|it| it.name == name && it.target_group_arn.as_deref() == arn);
            found.map_or(0.0, |metric| metric.sum)
        };
        assert_eq!(sum("RequestCount"), 3.0);
        assert_eq!(sum("HTTPCode_Target_2XX_Count"), 1.0);
        assert_eq!(sum("HTTPCode_Target_4XX_Count"), 1.0);
        assert_eq!(sum("HTTPCode_Target_5XX_Count"), 1.0);
        assert_eq!(sum("HTTPCode_ELB_5XX_Count"), 0.0);
        assert!(sum("TargetResponseTime") > 0.0);
    }
    let all = |name: &str| metrics.iter().find(|it| it.name == name).map_or(0.0, |it| it.sum);
    assert_eq!((all("HTTP_Fixed_Response_Count"), all("RuleEvaluations")), (1.0, 7.0));
    assert!(all("ProcessedBytes") > 300.0 && all("NewConnectionCount") >= 5.0, "{metrics:?}");
}
