//! What AWS's models call an operation, served here or not: a call of one that is not is told so, and not that there is
//! no such operation.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ferrogate_api::schema::Model;

use crate::template::Template;

/// `cargo xtask models` writes it: for each service its operations, in a REST service's with method and URI behind.
const NAMES: &str = include_str!("../../../api/names.json");

fn of(service: &str) -> &'static [&'static str] {
    static READ: OnceLock<BTreeMap<&str, Vec<&str>>> = OnceLock::new();
    let read = READ.get_or_init(|| serde_json::from_str(NAMES).expect("xtask models wrote it"));
    read.get(service).map_or(&[], Vec::as_slice)
}

/// Whether AWS has it. `service` is our name for it, as in `Model::service`.
pub(crate) fn is_known(service: &str, operation: &str) -> bool {
    of(service).iter().any(|line| line.split(' ').next() == Some(operation))
}

/// The templates of a REST service's operations that its model does not have, each with its operation's name.
pub(crate) fn templates(model: &Model) -> Vec<(Template, &'static str)> {
    let template = |line: &'static str| {
        let mut words = line.split(' ');
        let (name, method, uri) = (words.next()?, words.next()?, words.next()?);
        model.operation(name).is_none().then(|| (Template::bare(method, uri), name))
    };
    of(model.service).iter().filter_map(|line| template(line)).collect()
}
