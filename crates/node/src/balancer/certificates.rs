//! The certificates of a balancer's listeners: in memory, as fresh as the control plane has them.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_nodeapi::{BalancerAssignment, Certificate, EdgePlane};

/// What was got last. One that cannot be got again stays in use: its listener must not fail because the control
/// plane does.
#[derive(Default)]
pub(super) struct Certificates {
    known: BTreeMap<String, Certificate>,
}

/// How a refresh went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refreshed {
    /// What is known is not what it was.
    pub(super) changed: bool,
    /// Some could not be got; it is worth another try soon.
    pub(super) failed: bool,
}

impl Certificates {
    pub(super) fn known(&self) -> &BTreeMap<String, Certificate> {
        &self.known
    }

    /// Gets all that the assignment's listeners name, and forgets others.
    pub(super) async fn refresh(
        &mut self,
        assignment: &BalancerAssignment,
        plane: &dyn EdgePlane,
    ) -> Refreshed {
        let wanted: BTreeSet<&str> = assignment
            .listeners
            .iter()
            .flat_map(|listener| listener.certificate_arns.iter().map(String::as_str))
            .collect();
        let mut refreshed = Refreshed::default();
        self.known.retain(|arn, _| wanted.contains(arn.as_str()));
        for arn in wanted {
            match plane.certificate(arn).await {
                Ok(certificate) => {
                    let same = self.known.get(arn).is_some_and(|known| {
                        known.chain_pem == certificate.chain_pem
                            && known.private_key_pem == certificate.private_key_pem
                    });
                    if !same {
                        self.known.insert(arn.to_owned(), certificate);
                        refreshed.changed = true;
                    }
                }
                Err(error) => {
                    let balancer = &assignment.load_balancer_arn;
                    tracing::warn!(%error, certificate = arn, balancer, "a certificate could not be got");
                    refreshed.failed = true;
                }
            }
        }
        refreshed
    }
}
