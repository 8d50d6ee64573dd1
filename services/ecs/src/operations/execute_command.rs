//! ExecuteCommand: a session with a further process in a running container. ECS API reference, ExecuteCommand.

use ferrogate_api::{ApiError, ecs};
use ferrogate_nodeapi::ContainerStatus;

use super::{exec_logging, tasks};
use crate::call::Call;
use crate::errors::invalid;
use crate::lifecycle::Status;
use crate::names;
use crate::sessions::{Refused, SESSIONS_MAX, WhereExec};
use crate::state::{ClusterRecord, ContainerRecord, TaskRecord};

const NOT_ENABLED: &str = "The execute command failed because execute command was not enabled when the task was run \
                           or the execute command agent isn’t running. Wait and try again or run a new task with \
                           execute command enabled and try again.";
/// Of a command, in bytes.
const COMMAND_BYTES_MAX: usize = 8 << 10;

pub(crate) async fn execute(
    call: &Call<'_>,
    input: ecs::ExecuteCommandRequest,
) -> Result<ecs::ExecuteCommandResponse, ApiError> {
    let ClusterRecord { name: cluster, execute_command: logging, .. } =
        call.cluster(input.cluster.as_deref())?.record;
    if input.interactive != Some(true) {
        return Err(invalid("Interactive is the only mode supported currently."));
    }
    let id = names::task(&call.scope, &cluster, input.task.as_deref().unwrap_or_default())?;
    let task =
        tasks::find(call, &cluster, &id).ok_or_else(|| invalid("The referenced task was not found."))?.record;
    if !task.exec_enabled {
        return Err(invalid(NOT_ENABLED));
    }
    if task.lifecycle.status() != Status::Running {
        return Err(invalid("The execute command failed because the task is not running."));
    }
    let container = container(&task, input.container.as_deref().filter(|name| !name.is_empty()))?;
    check_agent(&task, container)?;
    let argv = argv(input.command.as_deref().unwrap_or_default()).map_err(invalid)?;
    let own = || call.service.log_configuration(&task.arn(), &container.name).map(|to| (to.group, to.region));
    let log = exec_logging::log_of(logging.as_ref(), own, &task.region);
    let wanted = WhereExec {
        task_arn: task.arn(),
        container: container.name.clone(),
        argv,
        target: format!("ecs:{cluster}_{id}_{}", container.runtime_id),
        owner: call.cx.principal.arn.clone(),
        log,
    };
    let prepared = call.service.sessions.prepare(wanted, call.cx.host.as_deref(), call.cx.now);
    let ticket = prepared.map_err(|refused| match refused {
        Refused::TooMany => ApiError::new(
            "ClientException",
            format!("The task has {SESSIONS_MAX} ECS Exec sessions, and no more are allowed: end one and try again."),
        ),
        Refused::NoDoor => not_connected(),
    })?;
    Ok(ecs::ExecuteCommandResponse {
        cluster_arn: Some(call.scope.cluster_arn(&cluster)),
        container_arn: Some(task.container_arn(container)),
        container_name: Some(container.name.clone()),
        interactive: Some(true),
        session: Some(ecs::Session {
            session_id: Some(ticket.id),
            stream_url: Some(ticket.url),
            token_value: Some(ticket.token),
        }),
        task_arn: Some(task.arn()),
    })
}

fn container<'a>(task: &'a TaskRecord, name: Option<&str>) -> Result<&'a ContainerRecord, ApiError> {
    match (name, task.containers.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(invalid("Container name is required when the task has more than one container.")),
        (Some(name), all) => all
            .iter()
            .find(|container| container.name == name)
            .ok_or_else(|| invalid(format!("The container name '{name}' is not in the task."))),
    }
}

fn check_agent(task: &TaskRecord, container: &ContainerRecord) -> Result<(), ApiError> {
    let progress = task.lifecycle.container(&container.name);
    if progress.is_none_or(|progress| progress.status != ContainerStatus::Running) {
        return Err(not_connected());
    }
    let agent = progress.and_then(|progress| progress.exec_agent.as_ref());
    match agent {
        Some(agent) if agent.status == ContainerStatus::Running => Ok(()),
        _ => Err(not_connected()),
    }
}

fn not_connected() -> ApiError {
    let message = "The execute command failed due to an internal error. Try again later.";
    ApiError::new("TargetNotConnectedException", message)
}

/// The words of a command line, as the agent splits it: quotes and backslashes as in a shell, and nothing else of one.
fn argv(command: &str) -> Result<Vec<String>, String> {
    if command.len() > COMMAND_BYTES_MAX {
        return Err(format!("command can have at most {COMMAND_BYTES_MAX} bytes."));
    }
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = command.chars();
    while let Some(character) = rest.next() {
        match (quote, character) {
            (None, ' ' | '\t' | '\n' | '\r') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let Some(next) = rest.next() else {
                    return Err("command ends with a backslash: nothing follows that it could quote.".into());
                };
                let word = word.get_or_insert_default();
                // In double quotes a backslash stands for itself, unless it quotes what means something there.
                if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (Some(open), character) if open == character => quote = None,
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    if let Some(open) = quote {
        return Err(format!("command has a quote ({open}) that is not closed."));
    }
    words.extend(word);
    match words.first() {
        Some(program) if !program.is_empty() && !command.contains('\0') => Ok(words),
        Some(_) => Err("command names no program, or has a NUL character.".into()),
        None => Err("command cannot be empty.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::argv;

    #[test]
    fn a_command_is_split_into_words() {
        let words = |text: &str| argv(text).expect(text);
        assert_eq!(words("/bin/sh"), ["/bin/sh"]);
        assert_eq!(words("  ls\t-l  / "), ["ls", "-l", "/"]);
        assert_eq!(words(r#"sh -c "echo 'a b' \"$X\" \n""#), ["sh", "-c", r#"echo 'a b' "$X" \n"#]);
        assert_eq!(words(r"echo '' a\ b 'c\d'"), ["echo", "", "a b", r"c\d"]);
        assert_eq!(words("x'y'z"), ["xyz"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for text in ["", "  ", "'open", "\"open", "end\\", "''", "a\0b"] {
            assert!(argv(text).is_err(), "{text:?}");
        }
        assert!(argv(&"x".repeat(super::COMMAND_BYTES_MAX + 1)).is_err());
    }
}
