//! How each service words a violated constraint.

use ferrogate_api::ApiError;
use ferrogate_api::schema::{Model, Operation, Protocol};

use crate::limits::{VALUE_TOLD_CHARS_MAX, VIOLATIONS_TOLD_MAX};

/// IAM's friendlier words for its names stand for this pattern.
const IAM_NAME_PATTERN: &str = r"[\w+=,.@-]+";

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constraint<'m> {
    NotNull {
        list: bool,
    },
    Rule(Rule<'m>),
    /// Of a list's items, a map's keys or values: all the constraints they have.
    Within(&'static str, Vec<Rule<'m>>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule<'m> {
    LengthMin(f64),
    LengthMax(f64),
    ValueMin(f64),
    ValueMax(f64),
    Pattern(&'static str),
    OneOf(&'m [&'static str]),
}

impl Rule<'_> {
    fn words(&self) -> String {
        match self {
            Self::LengthMin(min) => format!("Member must have length greater than or equal to {min}"),
            Self::LengthMax(max) => format!("Member must have length less than or equal to {max}"),
            Self::ValueMin(min) => format!("Member must have value greater than or equal to {min}"),
            Self::ValueMax(max) => format!("Member must have value less than or equal to {max}"),
            Self::Pattern(pattern) => format!("Member must satisfy regular expression pattern: {pattern}"),
            Self::OneOf(values) => format!("Member must satisfy enum value set: [{}]", values.join(", ")),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Violation<'m> {
    /// `tags.1.member.key`, first letters small
    pub(crate) at: String,
    /// The model's name for the member, and of the structure it is in.
    pub(crate) member: &'static str,
    pub(crate) structure: &'static str,
    /// The ec2 protocol's name.
    pub(crate) parameter: String,
    /// `None`: the value is secret, or there is none.
    pub(crate) value: Option<String>,
    pub(crate) constraint: Constraint<'m>,
}

/// Whose words.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wording {
    /// `1 validation error detected: …`
    Standard(&'static str),
    Iam,
    Ecr,
    Ecs,
    Ec2,
}

impl Wording {
    pub(crate) fn of(model: &Model) -> Self {
        match model.service {
            "iam" => Self::Iam,
            "ecr" => Self::Ecr,
            "ecs" => Self::Ecs,
            "ec2" => Self::Ec2,
            "logs" => Self::Standard("InvalidParameterException"),
            "s3" => Self::Standard("InvalidArgument"),
            "route53" => Self::Standard("InvalidInput"),
            _ => match model.protocols.first() {
                Some(Protocol::Query) => Self::Standard("ValidationError"),
                _ => Self::Standard("ValidationException"),
            },
        }
    }

    /// ECS and EC2 know their enums only in the operations, each with words of its own.
    pub(crate) fn has_enums(self) -> bool {
        !matches!(self, Self::Ecs | Self::Ec2)
    }

    /// The error that tells of all `violations`; there is at least one.
    pub(crate) fn error(self, operation: &Operation, violations: &[Violation<'_>]) -> ApiError {
        let first = &violations[0];
        let missing = violations.iter().find(|one| matches!(one.constraint, Constraint::NotNull { .. }));
        match self {
            Self::Standard(code) => ApiError::new(code, standard(violations)),
            Self::Iam => match violations {
                [Violation { constraint: Constraint::Rule(Rule::Pattern(IAM_NAME_PATTERN)), at, .. }] => ApiError::new(
                    "ValidationError",
                    format!(
                        "The specified value for {at} is invalid. It must contain only alphanumeric characters \
                         and/or the following: +=,.@_-"
                    ),
                ),
                _ => ApiError::new("ValidationError", standard(violations)),
            },
            Self::Ecr => ApiError::new("InvalidParameterException", ecr(first)),
            Self::Ecs => match missing {
                Some(missing) => ecs_missing(operation, missing),
                None => ApiError::new("InvalidParameterException", standard(violations)),
            },
            Self::Ec2 => match missing {
                Some(missing) => ApiError::new(
                    "MissingParameter",
                    format!("The request must contain the parameter {}", missing.parameter),
                ),
                None => ec2(first),
            },
        }
        .with_status(400)
    }
}

/// `2 validation errors detected: Value 'x' at 'y' failed to satisfy constraint: …; Value null at …`
fn standard(violations: &[Violation<'_>]) -> String {
    let told: Vec<String> = violations.iter().take(VIOLATIONS_TOLD_MAX).map(told).collect();
    let errors = if violations.len() == 1 { "error" } else { "errors" };
    format!("{} validation {errors} detected: {}", violations.len(), told.join("; "))
}

fn told(violation: &Violation<'_>) -> String {
    let at = &violation.at;
    match (&violation.constraint, &violation.value) {
        (Constraint::NotNull { .. }, _) => {
            format!("Value null at '{at}' failed to satisfy constraint: Member must not be null")
        }
        (constraint, Some(value)) => {
            format!(
                "Value '{}' at '{at}' failed to satisfy constraint: {}",
                shortened(value),
                words(constraint)
            )
        }
        (constraint, None) => format!("Value at '{at}' failed to satisfy constraint: {}", words(constraint)),
    }
}

fn words(constraint: &Constraint<'_>) -> String {
    match constraint {
        Constraint::NotNull { .. } => "Member must not be null".to_owned(),
        Constraint::Rule(rule) => rule.words(),
        Constraint::Within(what, rules) => {
            let rules: Vec<String> = rules.iter().map(Rule::words).collect();
            format!("{what} must satisfy constraint: [{}]", rules.join(", "))
        }
    }
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(VALUE_TOLD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// ECR API: `Invalid parameter at 'repositoryName' failed to satisfy constraint: 'must satisfy regular expression '…''`
fn ecr(violation: &Violation<'_>) -> String {
    let words = match &violation.constraint {
        Constraint::Rule(Rule::Pattern(pattern)) => format!("must satisfy regular expression '{pattern}'"),
        constraint => words(constraint),
    };
    format!("Invalid parameter at '{}' failed to satisfy constraint: '{words}'", violation.at)
}

/// ECS has a word of its own for each; these are the two forms most of them have.
fn ecs_missing(operation: &Operation, violation: &Violation<'_>) -> ApiError {
    let Violation { member, structure, constraint, .. } = violation;
    if operation.name == "RegisterTaskDefinition" {
        let what = match *structure {
            "ContainerDefinition" => format!("Container.{member}"),
            "RegisterTaskDefinitionRequest" => capital(member),
            structure => format!("{structure}.{member}"),
        };
        return ApiError::new("ClientException", format!("{what} should not be null or empty."));
    }
    let verb = if matches!(constraint, Constraint::NotNull { list: true }) { "empty" } else { "blank" };
    ApiError::new("InvalidParameterException", format!("{} can not be {verb}.", capital(member)))
}

pub(crate) fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn ec2(violation: &Violation<'_>) -> ApiError {
    let value = violation.value.as_deref().map(shortened).unwrap_or_default();
    let parameter = &violation.parameter;
    let expected = match &violation.constraint {
        Constraint::Rule(Rule::ValueMin(min)) => format!("Expecting a value greater than or equal to {min}."),
        Constraint::Rule(Rule::ValueMax(max)) => format!("Expecting a value less than or equal to {max}."),
        constraint => format!("{}.", words(constraint)),
    };
    ApiError::new(
        "InvalidParameterValue",
        format!("Value ( {value} ) for parameter {parameter} is invalid. {expected}"),
    )
}
