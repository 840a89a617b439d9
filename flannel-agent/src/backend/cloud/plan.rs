//! Which of a cloud's routes are to be made, replaced and removed. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::config::SubnetRange;

/// A routing table of the cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::backend) struct Table {
    /// Its name in the cloud.
    pub(in crate::backend) id: String,
    /// Its routes.
    pub(in crate::backend) routes: Vec<Route>,
}

/// A route of the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Route {
    /// Its destination.
    pub(in crate::backend) subnet: IpNet,
    /// Whose it is.
    pub(in crate::backend) owner: Owner,
    /// Where it leads, for messages.
    pub(in crate::backend) next_hop: String,
    /// Its name in the cloud; empty where routes have none.
    pub(in crate::backend) id: String,
}

/// Whose a route is, by its name or by where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Owner {
    /// This node's: it leads here.
    Own,
    /// Recognisably another node's of a flannel network, or of a node that is gone.
    Flannel,
    /// Somebody else's. It is never changed.
    Other,
}

/// What the routes are compared with.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The subnets of this node.
    pub(super) own: &'a [IpNet],
    /// The subnets of all other nodes; `None` if they are not known.
    pub(super) leased: Option<&'a BTreeSet<IpNet>>,
    /// The network's subnets.
    pub(super) ranges: &'a [SubnetRange],
    /// The routes that nobody had a lease for at the last comparison: table and subnet.
    pub(super) abandoned: &'a BTreeSet<(String, IpNet)>,
}

/// A change of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Change {
    /// Makes the route to this node.
    Create(IpNet),
    /// Makes the route to this node in place of this one.
    Replace(Route),
    /// Removes it.
    Remove(Route),
}

/// What is to be done in a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The changes, those that make routes first.
    pub(super) changes: Vec<Change>,
    /// Somebody else's routes to this node's subnets.
    pub(super) conflicts: Vec<Route>,
    /// The subnets of flannel's routes that nobody has a lease for. What is among them next time as well is removed.
    pub(super) abandoned: Vec<IpNet>,
}

impl Plan {
    /// Compares a table with what is wanted.
    pub(super) fn new(table: &Table, wanted: &Wanted<'_>) -> Self {
        let mut plan = Self::default();
        for subnet in wanted.own {
            plan.lead_here(*subnet, table);
        }
        let others = table.routes.iter().filter(|route| !wanted.own.contains(&route.subnet));
        for route in others.filter(|route| wanted.may_be_node_subnet(route.subnet)) {
            plan.tidy(route, table, wanted);
        }
        plan
    }

    /// Has the table one route to this subnet, which leads here.
    fn lead_here(&mut self, subnet: IpNet, table: &Table) {
        let of = |owner| table.routes.iter().filter(move |r| r.subnet == subnet && r.owner == owner);
        let conflicts = of(Owner::Other).cloned();
        self.conflicts.extend(conflicts);
        let is_free = self.conflicts.iter().all(|route| route.subnet != subnet);
        if of(Owner::Own).next().is_some() {
            self.changes.extend(of(Owner::Flannel).cloned().map(Change::Remove));
        } else if let Some(route) = of(Owner::Flannel).next() {
            self.changes.push(Change::Replace(route.clone()));
        } else if is_free {
            self.changes.push(Change::Create(subnet));
        }
    }

    /// Removes a route to a subnet that is not this node's, if it is flannel's and of no use.
    fn tidy(&mut self, route: &Route, table: &Table, wanted: &Wanted<'_>) {
        match route.owner {
            // A subnet that this node had before.
            Owner::Own => self.changes.push(Change::Remove(route.clone())),
            Owner::Flannel if wanted.is_unleased(route.subnet) => {
                self.abandoned.push(route.subnet);
                if wanted.abandoned.contains(&(table.id.clone(), route.subnet)) {
                    self.changes.push(Change::Remove(route.clone()));
                }
            }
            Owner::Flannel | Owner::Other => {}
        }
    }
}

impl Wanted<'_> {
    fn may_be_node_subnet(&self, subnet: IpNet) -> bool {
        self.ranges.iter().any(|range| range.can_hold(subnet))
    }

    fn is_unleased(&self, subnet: IpNet) -> bool {
        self.leased.is_some_and(|leased| !leased.contains(&subnet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    fn net(number: u8) -> IpNet {
        IpNet::new([10, 5, number, 0].into(), 24).unwrap()
    }

    fn route(number: u8, owner: Owner) -> Route {
        Route { subnet: net(number), owner, next_hop: format!("{owner:?}"), id: String::new() }
    }

    fn plan(routes: &[Route], own: &[IpNet], leased: Option<&[u8]>, abandoned: &[u8]) -> Plan {
        let config =
            NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "gce"}}"#).unwrap();
        let ranges: Vec<_> = config.ranges().collect();
        let leased = leased.map(|leased| leased.iter().copied().map(net).collect::<BTreeSet<_>>());
        let abandoned = abandoned.iter().map(|number| ("t".to_owned(), net(*number))).collect();
        let wanted = Wanted { own, leased: leased.as_ref(), ranges: &ranges, abandoned: &abandoned };
        Plan::new(&Table { id: "t".to_owned(), routes: routes.to_vec() }, &wanted)
    }

    #[test]
    fn the_own_subnet_has_one_route_that_leads_here() {
        let (own, flannel, other) = (route(1, Owner::Own), route(1, Owner::Flannel), route(1, Owner::Other));
        for (routes, changes, conflicts) in [
            (vec![], vec![Change::Create(net(1))], vec![]),
            (vec![route(2, Owner::Other)], vec![Change::Create(net(1))], vec![]),
            (vec![own.clone()], vec![], vec![]),
            (vec![flannel.clone()], vec![Change::Replace(flannel.clone())], vec![]),
            (vec![own.clone(), flannel.clone()], vec![Change::Remove(flannel.clone())], vec![]),
            (vec![other.clone()], vec![], vec![other.clone()]),
            (vec![own, other.clone()], vec![], vec![other]),
        ] {
            let plan = plan(&routes, &[net(1)], Some(&[]), &[]);
            assert_eq!((plan.changes, plan.conflicts), (changes, conflicts), "{routes:?}");
        }
    }

    #[test]
    fn flannels_routes_without_a_lease_are_removed_when_they_are_found_twice() {
        let all = [route(2, Owner::Flannel), route(3, Owner::Flannel), route(4, Owner::Other)];
        for (leased, before, abandoned, removed) in [
            (None, &[2, 3, 4][..], &[][..], &[][..]),
            (Some(&[2, 3][..]), &[2, 3], &[], &[]),
            (Some(&[3]), &[], &[2], &[]),
            (Some(&[3]), &[3], &[2], &[]),
            (Some(&[3]), &[2, 4], &[2], &[2]),
            (Some(&[]), &[2, 3, 4], &[2, 3], &[2, 3]),
        ] {
            let plan = plan(&all, &[], leased, before);
            let nets = |numbers: &[u8]| numbers.iter().copied().map(net).collect::<Vec<_>>();
            let of_removed = |number: &u8| Change::Remove(route(*number, Owner::Flannel));
            assert_eq!(plan.abandoned, nets(abandoned), "{leased:?} {before:?}");
            assert_eq!(
                plan.changes,
                removed.iter().map(of_removed).collect::<Vec<_>>(),
                "{leased:?} {before:?}"
            );
        }
    }

    #[test]
    fn a_former_subnet_of_this_node_is_given_up_at_once() {
        let plan = plan(&[route(7, Owner::Own)], &[net(1)], None, &[]);
        assert_eq!(plan.changes, [Change::Create(net(1)), Change::Remove(route(7, Owner::Own))]);
    }

    #[test]
    fn what_is_no_node_s_subnet_is_left_alone() {
        let odd = ["0.0.0.0/0", "10.5.0.0/16", "10.5.9.0/25", "192.168.9.0/24", "fd44::/64"];
        let routes: Vec<_> = odd
            .iter()
            .flat_map(|subnet| [Owner::Own, Owner::Flannel].map(|owner| (subnet.parse().unwrap(), owner)))
            .map(|(subnet, owner)| Route { subnet, owner, ..route(0, owner) })
            .collect();
        assert_eq!(plan(&routes, &[], Some(&[]), &[0, 9]), Plan::default());
    }
}
