//! What the generated code is made of. Plain macros keep 5,000 shapes cheap to compile (docs/adr/0002).

/// Structures of a service. Every member is optional: the codec has checked the required ones. What the model calls
/// sensitive is not shown by `Debug`.
macro_rules! shapes {
    ($($name:ident $(hides($($hidden:ident)*))? { $($field:ident : $type:ty = $wire:literal),* $(,)? })*) => {$(
        #[derive(Clone, Default, PartialEq)]
        pub struct $name { $(pub $field: Option<$type>,)* }

        impl std::fmt::Debug for $name {
            #[inline(never)]
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let hidden: &[&str] = &[$($(stringify!($hidden)),*)?];
                $crate::shape::debug(f, stringify!($name), &[$((stringify!($field), &self.$field)),*], hidden)
            }
        }

        impl $crate::Shape for $name {
            #[inline(never)]
            #[allow(unused_mut, clippy::let_and_return)]
            fn to_value(&self) -> $crate::Value {
                let mut members = Vec::new();
                $($crate::shape::put(&mut members, $wire, &self.$field);)*
                $crate::Value::Struct(members)
            }

            #[inline(never)]
            #[allow(unused_mut, unused_variables)]
            fn from_value(value: $crate::Value) -> Result<Self, $crate::ShapeError> {
                let mut shape = Self::default();
                $crate::shape::each_member(value, |name, value| {
                    match name {
                        $($wire => shape.$field = Some($crate::Shape::from_value(value)?),)*
                        _ => {}
                    }
                    Ok(())
                })?;
                Ok(shape)
            }
        }

        impl $crate::shape::ListItem for $name {}

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&$crate::Shape::to_value(self), serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value: $crate::Value = serde::Deserialize::deserialize(deserializer)?;
                $crate::Shape::from_value(value).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// A service: its trait, its server and its client.
macro_rules! service {
    ($trait:ident, $service:literal, { $($method:ident = $operation:literal : $input:ident => $output:ident;)* }) => {
        /// The operations of the service. One that is not written answers that it is not served.
        pub trait $trait: Send + Sync + 'static {
            /// The rights a call needs. No default: each service decides.
            fn demands(&self, cx: &$crate::Context, operation: &'static str, input: &$crate::Value) -> Vec<$crate::Demand>;

            $(fn $method(
                &self,
                _cx: &$crate::Context,
                _input: $input,
            ) -> impl Future<Output = Result<$output, $crate::ApiError>> + Send {
                async { Err($crate::ApiError::not_implemented($service, $operation)) }
            })*
        }

        /// The service as the front sees it.
        pub struct Server<T>(pub std::sync::Arc<T>);

        impl<T: $trait> $crate::Handler for Server<T> {
            fn service(&self) -> &'static str {
                $service
            }

            fn demands(&self, cx: &$crate::Context, operation: &'static str, input: &$crate::Value) -> Vec<$crate::Demand> {
                $trait::demands(&*self.0, cx, operation, input)
            }

            fn handle<'a>(
                &'a self,
                cx: &'a $crate::Context,
                operation: &'static str,
                input: $crate::Value,
            ) -> $crate::BoxFuture<'a, Result<$crate::Value, $crate::ApiError>> {
                match operation {
                    $($operation => Box::pin(async move {
                        let input = $crate::Shape::from_value(input).map_err(|_| $crate::ApiError::internal())?;
                        $trait::$method(&*self.0, cx, input).await.map(|output| $crate::Shape::to_value(&output))
                    }),)*
                    _ => Box::pin(async move { Err($crate::ApiError::not_implemented($service, operation)) }),
                }
            }
        }

        /// Calls the service from inside the program.
        #[derive(Clone)]
        pub struct Client {
            invoke: std::sync::Arc<dyn $crate::Invoke>,
            caller: $crate::Caller,
            region: String,
        }

        impl Client {
            pub fn new(invoke: std::sync::Arc<dyn $crate::Invoke>, caller: $crate::Caller, region: impl Into<String>) -> Self {
                Self { invoke, caller, region: region.into() }
            }

            $(pub async fn $method(&self, input: $input) -> Result<$output, $crate::ApiError> {
                let call = $crate::Call {
                    caller: self.caller.clone(),
                    service: $service,
                    operation: $operation,
                    region: self.region.clone(),
                    input: $crate::Shape::to_value(&input),
                };
                let output = self.invoke.invoke(call).await?;
                $crate::Shape::from_value(output).map_err(|_| $crate::ApiError::internal())
            })*
        }
    };
}
