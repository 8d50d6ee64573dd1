//! Requests inside requests, to a load balancer with a real web server behind it.

use ferrogate_tests::Cluster;
use serde_json::json;

use crate::balancers::{
    EVERYWHERE, active, balancer, group, healthy, listener, public, serve, target_group, text,
};

/// Answers with what was asked for, and shows what was asked, ever, but by health checks.
const SERVER: &str = r#"
cat > /etc/nginx/conf.d/default.conf <<'END'
log_format asked '$request_method $uri';
server {
  listen 80;
  access_log /tmp/seen asked;
  default_type text/plain;
  location / { return 200 "$request_method $uri"; }
  location = / { access_log off; return 200; }
  location = /seen { access_log off; alias /tmp/seen; }
}
END
exec nginx -g 'daemon off;'
"#;

/// By `smuggling.py`; the balancer's processes live through all of it.
#[test]
fn no_request_is_put_inside_another() {
    let cluster = Cluster::start();
    let open = group(&cluster, "open", &[(80, EVERYWHERE)]);
    let target = serve(&cluster, "server", SERVER, &[&open]);
    let targets = target_group(&cluster, "servers", &[&target]);
    let lb = balancer(&cluster, "guarded", &json!({ "SecurityGroups": [open] }));
    listener(&cluster, &lb, "HTTP", 80, &targets);
    active(&cluster, &lb);
    healthy(&cluster, &targets);
    let edges = cluster.edges();
    let said = cluster.python("smuggling.py", &[&public(&cluster, &lb)[0]]);
    print!("{}", said.stdout);
    said.ok();
    assert_eq!(cluster.edges(), edges, "those that were started");
    let input = json!({ "LoadBalancerArn": text(&lb["LoadBalancerArn"]) });
    cluster.boto().ok("elbv2", "delete_load_balancer", input);
}
