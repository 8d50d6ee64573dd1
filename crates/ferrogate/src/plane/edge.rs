//! The control plane as load balancers and resolvers see it: assignments and names from ELB, names from Route 53,
//! certificates from ACM and IAM.

use std::sync::Arc;

use ferrogate_elb::ElbService;
use ferrogate_nodeapi::{
    BalancerAssignment, BalancerReport, Certificate, ControlPlaneError, EdgePlane, Endpoints, Names,
};
use tokio::sync::watch;

/// Names of several publishers as those of one; it follows them until one of them ends, as the program does then.
pub(crate) fn merged(sources: Vec<watch::Receiver<Arc<Names>>>) -> watch::Receiver<Arc<Names>> {
    let (sender, receiver) = watch::channel(Arc::new(merge(&sources)));
    tokio::spawn(async move {
        let mut sources = sources;
        while !sources.is_empty() {
            let changes: Vec<_> = sources.iter_mut().map(|source| Box::pin(source.changed())).collect();
            let (changed, _, rest) = futures_util::future::select_all(changes).await;
            drop(rest);
            if changed.is_err() {
                return;
            }
            sources.iter_mut().for_each(watch::Receiver::mark_unchanged);
            sender.send_replace(Arc::new(merge(&sources)));
        }
    });
    receiver
}

/// The revision is that of all of them together: it grows with each.
fn merge(sources: &[watch::Receiver<Arc<Names>>]) -> Names {
    let mut names = Names::default();
    for source in sources {
        let published = source.borrow();
        names.revision += published.revision;
        names.zones.extend(published.zones.iter().cloned());
    }
    names
}

/// Who keeps certificates with their keys: ACM, IAM.
pub(crate) trait CertificateSource: Send + Sync + 'static {
    /// `None`: it is not one of this source's.
    fn certificate(&self, arn: &str) -> Option<Certificate>;
}

/// [`EdgePlane`] in one program.
pub(crate) struct Edges {
    pub(crate) node_id: String,
    pub(crate) elb: Arc<ElbService>,
    pub(crate) names: watch::Receiver<Arc<Names>>,
    pub(crate) endpoints: watch::Receiver<Arc<Endpoints>>,
    pub(crate) certificates: Vec<Arc<dyn CertificateSource>>,
}

#[async_trait::async_trait]
impl EdgePlane for Edges {
    fn balancers(&self) -> watch::Receiver<Arc<Vec<BalancerAssignment>>> {
        self.elb.balancers(&self.node_id)
    }

    fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.clone()
    }

    fn endpoints(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.endpoints.clone()
    }

    async fn certificate(&self, certificate_arn: &str) -> Result<Certificate, ControlPlaneError> {
        let found = self.certificates.iter().find_map(|source| source.certificate(certificate_arn));
        found.ok_or_else(|| ControlPlaneError::Refused {
            code: "CertificateNotFound".into(),
            message: format!("Certificate '{certificate_arn}' not found"),
        })
    }

    async fn report_balancers(&self, reports: Vec<BalancerReport>) -> Result<(), ControlPlaneError> {
        self.elb.report(reports).await.map_err(unavailable)
    }

    async fn put_access_logs(
        &self,
        load_balancer_arn: &str,
        availability_zone: &str,
        connection: bool,
        lines: Vec<String>,
    ) -> Result<(), ControlPlaneError> {
        let put = self.elb.put_access_logs(load_balancer_arn, availability_zone, connection, lines);
        put.await.map_err(unavailable)
    }
}

fn unavailable(error: impl std::error::Error) -> ControlPlaneError {
    ControlPlaneError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_nodeapi::Zone;

    fn names(revision: u64, zones: &[&str]) -> Arc<Names> {
        let zone = |name: &&str| Zone { name: (*name).to_owned(), ..Zone::default() };
        Arc::new(Names { revision, zones: zones.iter().map(zone).collect() })
    }

    #[tokio::test]
    async fn names_of_all_publishers_are_one_value_that_follows_each() {
        let (one, other) = (watch::Sender::new(names(1, &["a"])), watch::Sender::new(names(5, &[])));
        let mut all = merged(vec![one.subscribe(), other.subscribe()]);
        assert_eq!(*all.borrow_and_update(), names(6, &["a"]));
        other.send_replace(names(6, &["b"]));
        all.changed().await.unwrap();
        assert_eq!(*all.borrow_and_update(), names(7, &["a", "b"]));
        one.send_replace(names(2, &["c"]));
        all.changed().await.unwrap();
        assert_eq!(*all.borrow_and_update(), names(8, &["c", "b"]));
    }
}
