"""The paper's figures: from arrays to drawings, and what each is measured on."""
