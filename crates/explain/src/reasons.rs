//! A task that ended: what its recorded reason means. The patterns are ECS's own words.

use ferrogate_api::ecs;

use crate::facts::Facts;
use crate::sizes::next_memory;
use crate::{About, Finding, starting};

pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let reason = facts.reason();
    let mut findings = match facts.task.stop_code.as_deref().unwrap_or_default() {
        "TaskFailedToStart" => vec![failed_start(facts, reason)],
        "UserInitiated" => vec![
            Finding::note(About::Stop, "Somebody asked for its end (StopTask, or `ferrogate down`).")
                .because(reason),
        ],
        "ServiceSchedulerInitiated" => {
            vec![Finding::note(About::Stop, "Its service ended it.").because(reason)]
        }
        "SpotInterruption" => vec![
            Finding::cause(About::Capacity, "Spot capacity was taken back.")
                .because(reason)
                .fix("Use FARGATE where a task must not be interrupted."),
        ],
        "InfrastructureHealth" | "TerminationNotice" => vec![
            Finding::cause(About::Capacity, "The node could not keep it.")
                .because(reason)
                .fix("Run it again."),
        ],
        _ => Vec::new(),
    };
    let by_exit = facts.task.stop_code.as_deref() == Some("EssentialContainerExited");
    let ended = facts.containers().iter().filter(|container| container.exit_code.is_some());
    for container in ended {
        let essential = facts
            .definition_of(container.name.as_deref().unwrap_or_default())
            .is_none_or(|definition| definition.essential != Some(false));
        findings.extend(exit(facts, container, by_exit && essential));
    }
    findings
}

fn failed_start(facts: &Facts, reason: &str) -> Finding {
    let has = |text: &str| reason.contains(text);
    if reason.starts_with("CannotPull") {
        return pull(facts, reason).because(reason);
    }
    if has("unable to pull secrets or registry auth") {
        return secret(facts, reason).because(reason);
    }
    if has("failed to validate logger args") {
        return logger(facts, reason).because(reason);
    }
    if has("Timeout waiting for network interface provisioning") {
        return Finding::cause(About::Capacity, "Its network interface could not be made: most likely the subnet has no free address.")
            .because(reason)
            .fix("Use another subnet, or stop tasks in this one: aws ec2 describe-subnets --query 'Subnets[].[SubnetId,AvailableIpAddressCount]'");
    }
    if reason.starts_with("CannotStartContainerError") || reason.starts_with("CannotCreateContainerError") {
        return command(reason).because(reason);
    }
    if has("Capacity is unavailable at this time") {
        let finding = starting::no_node(facts).unwrap_or_else(|| {
            Finding::cause(About::Capacity, "There was no node for it.").fix("Run it again.")
        });
        return finding.because(reason);
    }
    let mut reasons = facts.containers().iter().filter_map(|container| container.reason.as_deref());
    if let Some(unresolved) = reasons.find(|reason| reason.starts_with("TaskDependencyError")) {
        return Finding::cause(
            About::Start,
            "A container did not become what its dependents wait for (dependsOn).",
        )
        .because(reason)
        .because(unresolved)
        .fix("Look at that container's output (`ferrogate logs`), or give it a longer startTimeout.");
    }
    Finding::cause(About::Start, "It failed to start.").because(reason)
}

fn image_of(reason: &str) -> &str {
    let after = reason.split("failed to resolve ref ").nth(1).unwrap_or_default();
    after.split(": ").next().unwrap_or_default()
}

/// It timed out: because there is no way, or because the other side does not answer.
fn timed_out(facts: &Facts, what: &str) -> Finding {
    facts.blocked().unwrap_or_else(|| {
        Finding::cause(About::Route, format!("{what} did not answer in time."))
            .fix("Without a public address (assignPublicIp=ENABLED) an internet gateway serves a task nothing.")
            .fix("Is the registry or service up, and its name right?")
    })
}

fn pull(facts: &Facts, reason: &str) -> Finding {
    let has = |text: &str| reason.contains(text);
    let image = image_of(reason);
    if has("i/o timeout") || has("context deadline exceeded") || has("no route to host") {
        return timed_out(facts, "the registry");
    }
    if has("no space left on device") {
        return Finding::cause(
            About::Storage,
            "The image does not fit into the task's ephemeral storage, or the node's disk is full.",
        )
        .fix(
            "Raise ephemeralStorage.sizeInGiB (21 to 200) in the task definition, or make the image smaller.",
        )
        .fix("df -h on the data folder; old images go by themselves when space is short.");
    }
    if has("matching platform") || has("no match for platform") {
        return Finding::cause(About::Image, format!("Image {image} is not made for the task's platform."))
            .fix("Set runtimePlatform.cpuArchitecture to one the image has, or build it for this one (docker buildx build --platform linux/amd64).");
    }
    if has("pull access denied")
        || has("no basic auth credentials")
        || has("authorization failed")
        || has("401")
    {
        return Finding::cause(About::Image, format!("The registry does not let the task have {image}: it is private, or not there."))
            .fix("ECR: the execution role needs ecr:GetAuthorizationToken, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer (AmazonECSTaskExecutionRolePolicy has them).")
            .fix("Other registries: containerDefinitions[].repositoryCredentials with a secret {\"username\":…,\"password\":…}.");
    }
    if has(": not found") || has("NotFound") || has("does not exist") {
        return Finding::cause(About::Image, format!("There is no image {image}."))
            .fix("Correct the name or the tag. ECR: aws ecr list-images --repository-name <name>.");
    }
    if has("no such host") {
        return Finding::cause(
            About::Image,
            format!("The registry of {image} has a name that does not resolve."),
        )
        .fix("Correct the registry's name in the image.");
    }
    if has("digest") {
        return Finding::cause(About::Image, "The registry gave bytes that are not what their digest says.")
            .fix("Push the image again; look at proxies and mirrors between.");
    }
    Finding::cause(About::Image, format!("Image {image} could not be pulled."))
}

fn secret(facts: &Facts, reason: &str) -> Finding {
    let has = |text: &str| reason.contains(text);
    if has("AccessDenied") || has("not authorized") {
        let action = reason
            .split("not authorized to perform: ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("secretsmanager:GetSecretValue or ssm:GetParameters");
        let resource = reason
            .split("on resource: ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("the secret's ARN");
        let role =
            facts.task.overrides.as_ref().and_then(|overrides| overrides.execution_role_arn.as_deref());
        let role = role
            .or_else(|| facts.definition.as_ref().and_then(|of| of.execution_role_arn.as_deref()))
            .unwrap_or("the execution role");
        let name = role.rsplit('/').next().unwrap_or(role);
        return Finding::cause(About::Role, format!("The execution role {name} may not {action} on {resource}.")).fix(format!(
            r#"aws iam put-role-policy --role-name {name} --policy-name secrets --policy-document '{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"{resource}"}}]}}'"#
        ));
    }
    if has("did not contain json key") {
        return Finding::cause(About::Secret, "The secret has no such JSON key.").fix(
            "Correct the key in valueFrom (arn:…:secret:name-abcdef:KEY::), or put it into the secret.",
        );
    }
    if has("ResourceNotFound")
        || has("can't find")
        || has("invalid ssm parameters")
        || has("ParameterNotFound")
    {
        return Finding::cause(About::Secret, "A secret or parameter of the task definition is not there.")
            .fix("Correct valueFrom: aws secretsmanager list-secrets, aws ssm describe-parameters.");
    }
    if has("deadline exceeded") || has("i/o timeout") {
        return timed_out(facts, "Secrets Manager");
    }
    Finding::cause(About::Secret, "A secret of the task definition could not be read.")
}

fn logger(facts: &Facts, reason: &str) -> Finding {
    if reason.contains("log group does not exist") || reason.contains("ResourceNotFoundException") {
        let missing = facts.log_groups.iter().find(|group| !group.exists);
        let name = missing.map_or("<group>", |group| group.name.as_str());
        let region = missing.map_or("", |group| group.region.as_str());
        return Finding::cause(About::Logs, format!("The log group {name} does not exist."))
            .fix(format!("aws logs create-log-group --log-group-name {name} --region {region}"))
            .fix("Or awslogs-create-group: \"true\" in logConfiguration.options, with logs:CreateLogGroup for the execution role.");
    }
    if reason.contains("i/o timeout") || reason.contains("deadline exceeded") {
        return timed_out(facts, "CloudWatch Logs");
    }
    if reason.contains("AccessDenied") || reason.contains("not authorized") {
        return Finding::cause(About::Logs, "The execution role may not write the container's logs.")
            .fix("aws iam attach-role-policy --role-name <execution role> --policy-arn arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy");
    }
    Finding::cause(About::Logs, "The log driver could not be set up.")
}

fn command(reason: &str) -> Finding {
    if reason.contains("executable file not found") || reason.contains("no such file or directory") {
        return Finding::cause(About::Command, "The program that the container is to run is not in the image.")
            .fix("Correct command or entryPoint: the first word must be a program of the image, and one word per element (\"sh\", \"-c\", \"…\").");
    }
    if reason.contains("permission denied") {
        return Finding::cause(
            About::Command,
            "The program that the container is to run may not be executed by its user.",
        )
        .fix("chmod +x in the image, or another `user`; a script needs its #! line.");
    }
    if reason.contains("exec format error") {
        return Finding::cause(
            About::Image,
            "The program is made for another processor, or is a script without #! line.",
        )
        .fix("Set runtimePlatform.cpuArchitecture to the image's, or build it for this one.");
    }
    if reason.contains("user") {
        return Finding::cause(About::Command, "The container's user is not in the image.")
            .fix("Correct `user`, or use a number.");
    }
    Finding::cause(About::Command, "A container could not be started.")
}

fn exit(facts: &Facts, container: &ecs::Container, is_cause: bool) -> Option<Finding> {
    let name = container.name.as_deref().unwrap_or_default();
    let code = container.exit_code?;
    let reason = container.reason.clone().unwrap_or_default();
    if reason.starts_with("OutOfMemoryError") {
        return Some(out_of_memory(facts, container).because(reason));
    }
    // Who was asked to stop ends by the signal: that is as it should be.
    if !is_cause {
        return (code != 0 && code != 137 && code != 143)
            .then(|| Finding::note(About::Container, format!("Container {name} exited with {code}.")));
    }
    let last = facts.last_lines(name).join("\n");
    let found =
        |text: String| Finding::cause(About::Container, text).because(reason.clone()).because(last.clone());
    let output = format!("Its output says why, if it does: ferrogate logs {}", task_id(facts));
    Some(match code {
        0 => found(format!("Container {name} had done its work and exited with 0; it is essential, so the task ended with it."))
            .fix("For a server: its program must stay in the foreground. For a helper beside others: essential: false."),
        126 => found(format!("Container {name} exited with 126: a command was found and could not be executed.")).fix(output),
        127 => found(format!("Container {name} exited with 127: its shell did not find a command.")).fix(output),
        137 => found(format!("Container {name} was killed (SIGKILL, 137), and not for its memory."))
            .fix("Something in the container, or somebody on the host, killed it; a health check does not."),
        139 => found(format!("Container {name} crashed (SIGSEGV, 139): a fault in its program or a library of another build.")).fix(output),
        143 => found(format!("Container {name} ended by SIGTERM (143) that something inside sent.")).fix(output),
        129..=192 => found(format!("Container {name} was ended by signal {} (exit code {code}).", code - 128)).fix(output),
        _ => found(format!("Container {name} failed: its program exited with {code}.")).fix(output),
    })
}

fn task_id(facts: &Facts) -> &str {
    let arn = facts.task.task_arn.as_deref().unwrap_or_default();
    arn.rsplit('/').next().unwrap_or(arn)
}

fn out_of_memory(facts: &Facts, container: &ecs::Container) -> Finding {
    let name = container.name.as_deref().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    if let Some(limit) = number(container.memory.as_deref()) {
        return Finding::cause(
            About::Size,
            format!("Container {name} needed more than its own limit of {limit} MiB (`memory`)."),
        )
        .fix(format!(
            "Raise the container's memory above {limit}, or remove it: then the task's memory is the limit."
        ));
    }
    let (cpu, memory) = (number(facts.task.cpu.as_deref()), number(facts.task.memory.as_deref()));
    let finding = Finding::cause(
        About::Size,
        format!("Container {name} needed more memory than the task's {} MiB.", memory.unwrap_or_default()),
    );
    match next_memory(cpu.unwrap_or_default(), memory.unwrap_or_default()) {
        Some((cpu, memory)) => finding.fix(format!("The next size up: cpu {cpu}, memory {memory}.")),
        None => finding.fix("It is the largest size there is: let the program use less."),
    }
}
