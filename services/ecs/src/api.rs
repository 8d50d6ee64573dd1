//! The operations, each forwarded to its file.

use ferrogate_api::{ApiError, Context, Demand, Value, ecs};

use crate::EcsService;
use crate::call::Call;
use crate::operations::{
    absent, capacity_providers, clusters, definitions, execute_command, protection, run_task, services,
    settings, tags, tasks,
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
        continue_service_deployment(ContinueServiceDeploymentRequest) -> ContinueServiceDeploymentResponse = services::deployments::resume;
        create_cluster(CreateClusterRequest) -> CreateClusterResponse = clusters::create;
        create_service(CreateServiceRequest) -> CreateServiceResponse = services::create::create;
        create_task_set(CreateTaskSetRequest) -> CreateTaskSetResponse = services::task_sets::create;
        delete_account_setting(DeleteAccountSettingRequest) -> DeleteAccountSettingResponse = settings::delete;
        delete_cluster(DeleteClusterRequest) -> DeleteClusterResponse = clusters::delete;
        delete_service(DeleteServiceRequest) -> DeleteServiceResponse = services::delete::delete;
        delete_task_definitions(DeleteTaskDefinitionsRequest) -> DeleteTaskDefinitionsResponse = definitions::delete;
        delete_task_set(DeleteTaskSetRequest) -> DeleteTaskSetResponse = services::task_sets::delete;
        deregister_task_definition(DeregisterTaskDefinitionRequest) -> DeregisterTaskDefinitionResponse = definitions::deregister;
        execute_command(ExecuteCommandRequest) -> ExecuteCommandResponse = execute_command::execute;
        list_services_by_namespace(ListServicesByNamespaceRequest) -> ListServicesByNamespaceResponse = services::describe::list_by_namespace;
        put_account_setting(PutAccountSettingRequest) -> PutAccountSettingResponse = settings::put;
        put_account_setting_default(PutAccountSettingDefaultRequest) -> PutAccountSettingDefaultResponse = settings::put_default;
        put_cluster_capacity_providers(PutClusterCapacityProvidersRequest) -> PutClusterCapacityProvidersResponse = clusters::put_capacity_providers;
        register_task_definition(RegisterTaskDefinitionRequest) -> RegisterTaskDefinitionResponse = definitions::register;
        run_task(RunTaskRequest) -> RunTaskResponse = run_task::run;
        stop_service_deployment(StopServiceDeploymentRequest) -> StopServiceDeploymentResponse = services::deployments::stop;
        stop_task(StopTaskRequest) -> StopTaskResponse = tasks::stop;
        tag_resource(TagResourceRequest) -> TagResourceResponse = tags::tag;
        untag_resource(UntagResourceRequest) -> UntagResourceResponse = tags::untag;
        update_cluster(UpdateClusterRequest) -> UpdateClusterResponse = clusters::update;
        update_service(UpdateServiceRequest) -> UpdateServiceResponse = services::update::update;
        update_service_primary_task_set(UpdateServicePrimaryTaskSetRequest) -> UpdateServicePrimaryTaskSetResponse = services::task_sets::update_primary;
        update_task_protection(UpdateTaskProtectionRequest) -> UpdateTaskProtectionResponse = protection::update;
        update_task_set(UpdateTaskSetRequest) -> UpdateTaskSetResponse = services::task_sets::update;
    }
    read {
        describe_capacity_providers(DescribeCapacityProvidersRequest) -> DescribeCapacityProvidersResponse = capacity_providers::describe;
        describe_clusters(DescribeClustersRequest) -> DescribeClustersResponse = clusters::describe;
        describe_container_instances(DescribeContainerInstancesRequest) -> DescribeContainerInstancesResponse = absent::describe_container_instances;
        describe_service_deployments(DescribeServiceDeploymentsRequest) -> DescribeServiceDeploymentsResponse = services::deployments::describe;
        describe_service_revisions(DescribeServiceRevisionsRequest) -> DescribeServiceRevisionsResponse = services::deployments::describe_revisions;
        describe_services(DescribeServicesRequest) -> DescribeServicesResponse = services::describe::describe;
        describe_task_definition(DescribeTaskDefinitionRequest) -> DescribeTaskDefinitionResponse = definitions::describe;
        describe_task_sets(DescribeTaskSetsRequest) -> DescribeTaskSetsResponse = services::task_sets::describe;
        describe_tasks(DescribeTasksRequest) -> DescribeTasksResponse = tasks::describe;
        get_task_protection(GetTaskProtectionRequest) -> GetTaskProtectionResponse = protection::get;
        list_account_settings(ListAccountSettingsRequest) -> ListAccountSettingsResponse = settings::list;
        list_attributes(ListAttributesRequest) -> ListAttributesResponse = absent::list_attributes;
        list_clusters(ListClustersRequest) -> ListClustersResponse = clusters::list;
        list_container_instances(ListContainerInstancesRequest) -> ListContainerInstancesResponse = absent::list_container_instances;
        list_service_deployments(ListServiceDeploymentsRequest) -> ListServiceDeploymentsResponse = services::deployments::list;
        list_services(ListServicesRequest) -> ListServicesResponse = services::describe::list;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = tags::list;
        list_task_definition_families(ListTaskDefinitionFamiliesRequest) -> ListTaskDefinitionFamiliesResponse = definitions::list_families;
        list_task_definitions(ListTaskDefinitionsRequest) -> ListTaskDefinitionsResponse = definitions::list;
        list_tasks(ListTasksRequest) -> ListTasksResponse = tasks::list;
        update_cluster_settings(UpdateClusterSettingsRequest) -> UpdateClusterSettingsResponse = clusters::update_settings;
    }
}
