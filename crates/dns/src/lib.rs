//! DNS answers for the resolvers of VPCs.
