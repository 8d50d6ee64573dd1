//! The operations, each forwarded to its file.

use ferrogate_api::{ApiError, Context, Demand, Value, ecs};

use crate::EcsService;
use crate::call::Call;
use crate::operations::{
    absent, capacity_providers, clusters, definitions, execute_command, protection, run_task, settings, tags,
    tasks,
};

/// Operations that wait for the store or another service, and those that only look.
macro_rules! operations {
    (
        write { $($write:ident($write_input:ident) -> $write_output:ident = $write_to:path;)* }
        read { $($read:ident($read_input:ident) -> $read_output:ident = $read_from:path;)* }
    ) => {
        impl ecs::Ecs for EcsService {
            fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
                crate::demands::demands(&Call::new(self, cx), operation, input)
            }

            $(async fn $write(&self, cx: &Context, input: ecs::$write_input) -> Result<ecs::$write_output, ApiError> {
                Box::pin($write_to(&Call::new(self, cx), input)).await
            })*

            $(async fn $read(&self, cx: &Context, input: ecs::$read_input) -> Result<ecs::$read_output, ApiError> {
                $read_from(&Call::new(self, cx), input)
            })*
        }
    };
}

operations! {
    write {
        create_cluster(CreateClusterRequest) -> CreateClusterResponse = clusters::create;
        delete_account_setting(DeleteAccountSettingRequest) -> DeleteAccountSettingResponse = settings::delete;
        delete_cluster(DeleteClusterRequest) -> DeleteClusterResponse = clusters::delete;
        delete_task_definitions(DeleteTaskDefinitionsRequest) -> DeleteTaskDefinitionsResponse = definitions::delete;
        deregister_task_definition(DeregisterTaskDefinitionRequest) -> DeregisterTaskDefinitionResponse = definitions::deregister;
        execute_command(ExecuteCommandRequest) -> ExecuteCommandResponse = execute_command::execute;
        put_account_setting(PutAccountSettingRequest) -> PutAccountSettingResponse = settings::put;
        put_account_setting_default(PutAccountSettingDefaultRequest) -> PutAccountSettingDefaultResponse = settings::put_default;
        put_cluster_capacity_providers(PutClusterCapacityProvidersRequest) -> PutClusterCapacityProvidersResponse = clusters::put_capacity_providers;
        register_task_definition(RegisterTaskDefinitionRequest) -> RegisterTaskDefinitionResponse = definitions::register;
        run_task(RunTaskRequest) -> RunTaskResponse = run_task::run;
        stop_task(StopTaskRequest) -> StopTaskResponse = tasks::stop;
        tag_resource(TagResourceRequest) -> TagResourceResponse = tags::tag;
        untag_resource(UntagResourceRequest) -> UntagResourceResponse = tags::untag;
        update_cluster(UpdateClusterRequest) -> UpdateClusterResponse = clusters::update;
        update_task_protection(UpdateTaskProtectionRequest) -> UpdateTaskProtectionResponse = protection::update;
    }
    read {
        describe_capacity_providers(DescribeCapacityProvidersRequest) -> DescribeCapacityProvidersResponse = capacity_providers::describe;
        describe_clusters(DescribeClustersRequest) -> DescribeClustersResponse = clusters::describe;
        describe_container_instances(DescribeContainerInstancesRequest) -> DescribeContainerInstancesResponse = absent::describe_container_instances;
        describe_services(DescribeServicesRequest) -> DescribeServicesResponse = absent::describe_services;
        describe_task_definition(DescribeTaskDefinitionRequest) -> DescribeTaskDefinitionResponse = definitions::describe;
        describe_tasks(DescribeTasksRequest) -> DescribeTasksResponse = tasks::describe;
        get_task_protection(GetTaskProtectionRequest) -> GetTaskProtectionResponse = protection::get;
        list_account_settings(ListAccountSettingsRequest) -> ListAccountSettingsResponse = settings::list;
        list_attributes(ListAttributesRequest) -> ListAttributesResponse = absent::list_attributes;
        list_clusters(ListClustersRequest) -> ListClustersResponse = clusters::list;
        list_container_instances(ListContainerInstancesRequest) -> ListContainerInstancesResponse = absent::list_container_instances;
        list_services(ListServicesRequest) -> ListServicesResponse = absent::list_services;
        list_services_by_namespace(ListServicesByNamespaceRequest) -> ListServicesByNamespaceResponse = absent::list_services_by_namespace;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = tags::list;
        list_task_definition_families(ListTaskDefinitionFamiliesRequest) -> ListTaskDefinitionFamiliesResponse = definitions::list_families;
        list_task_definitions(ListTaskDefinitionsRequest) -> ListTaskDefinitionsResponse = definitions::list;
        list_tasks(ListTasksRequest) -> ListTasksResponse = tasks::list;
        update_cluster_settings(UpdateClusterSettingsRequest) -> UpdateClusterSettingsResponse = clusters::update_settings;
    }
}
