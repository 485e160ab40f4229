//! Which members an operator means.

use crate::ha::types::MemberName;
use crate::ha::view::{ClusterView, Member};

/// A member with its name.
pub type Named<'a> = (&'a MemberName, &'a Member);

/// The members in a role, by name. Roles are the words of `--role`.
#[must_use]
pub fn in_role<'a>(view: &'a ClusterView, role: &str) -> Vec<Named<'a>> {
    let leader = view.leader_name();
    match role {
        "leader" | "primary" | "standby-leader" => {
            let Some((name, member)) = leader.and_then(|name| view.members.get_key_value(name)) else { return Vec::new() };
            let fits = match role {
                "primary" => member.role != "standby_leader",
                "standby-leader" => !matches!(member.role.as_str(), "primary" | "master"),
                _ => true,
            };
            if fits {
                vec![(name, member)]
            } else {
                Vec::new()
            }
        }
        "replica" | "standby" => view.members.iter().filter(|(name, _)| leader != Some(*name)).collect(),
        _ => view.members.iter().collect(),
    }
}

/// All members with a REST address, the leader first: whom to ask for something that anybody can do.
#[must_use]
pub fn leader_first(view: &ClusterView) -> Vec<Named<'_>> {
    let mut all: Vec<Named<'_>> = view.members.iter().filter(|(_, member)| member.api_url.is_some()).collect();
    all.sort_by_key(|(name, _)| view.leader_name() != Some(*name));
    all
}

#[cfg(test)]
mod tests {
    use super::{in_role, leader_first};
    use crate::ha::types::{LeaseId, Revision};
    use crate::ha::view::{ClusterView, LeaderEntry, Member};

    #[test]
    fn roles_and_order() {
        let member = |role: &str| Member { role: role.to_owned(), api_url: Some("http://h".to_owned()), ..Member::default() };
        let mut view = ClusterView {
            leader: Some(LeaderEntry { name: "n2".into(), lease: LeaseId(1), revision: Revision(1) }),
            members: [("n1".into(), member("replica")), ("n2".into(), member("primary")), ("n3".into(), Member::default())].into(),
            ..ClusterView::default()
        };
        let names =
            |view: &ClusterView, role: &str| in_role(view, role).iter().map(|(name, _)| name.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&view, "leader"), ["n2"]);
        assert_eq!(names(&view, "primary"), ["n2"]);
        assert_eq!(names(&view, "standby-leader").len(), 0);
        assert_eq!(names(&view, "replica"), ["n1", "n3"]);
        assert_eq!(names(&view, "any"), ["n1", "n2", "n3"]);
        assert_eq!(leader_first(&view).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["n2", "n1"]);
        view.leader = None;
        assert_eq!(names(&view, "leader").len(), 0);
        assert_eq!(names(&view, "standby").len(), 3);
    }
}
