//! The main job end to end in a scratch folder.
