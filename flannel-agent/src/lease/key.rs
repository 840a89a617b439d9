//! A lease's subnets as the datastore's keys spell them.
